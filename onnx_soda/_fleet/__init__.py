"""Fleets: many models, each with its own data and options, and results that outlive a run."""
