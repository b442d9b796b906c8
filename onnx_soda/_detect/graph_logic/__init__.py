"""Decisions written into the graph: backdoors that need no training."""
