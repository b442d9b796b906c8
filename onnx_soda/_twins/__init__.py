"""Twins: small networks trained from scratch on the clean set alone, to compare a suspect with."""
