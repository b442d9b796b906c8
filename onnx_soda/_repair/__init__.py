"""Repair of a backdoored classifier; needs the `[repair]` extra, which brings torch."""
