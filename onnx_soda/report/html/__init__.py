"""The report as one HTML page that needs nothing else; needs the `[html]` extra."""
