"""Interventions on what clean images show, and on the style of a hidden layer."""
