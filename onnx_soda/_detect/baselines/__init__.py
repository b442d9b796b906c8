"""Detectors that the paper compares itself with, and others like them."""
