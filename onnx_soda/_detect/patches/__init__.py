"""Stamped patches: the smallest that turn images of all classes, or of one, into a class."""
