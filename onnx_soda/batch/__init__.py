"""Scans of many models, and what is remembered of earlier ones."""
