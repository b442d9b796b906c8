"""Runs what parses or runs a stranger's file in a child process with limits."""
