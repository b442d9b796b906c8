"""Removers of other authors, a file each; see docs/comparison.md."""
