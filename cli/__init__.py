"""The command line: parses, shows progress, prints, and sets the exit code."""
