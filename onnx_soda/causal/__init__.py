"""Causal attribution of hidden neurons, and what it tells about backdoors."""
