"""Detectors: each looks at one suspect in one way, and says what it saw."""
