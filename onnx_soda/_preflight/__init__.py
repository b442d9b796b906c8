"""Looks at a stranger's file before any other library does: pure checks on bytes and messages."""
