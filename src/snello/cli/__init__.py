"""The command line: one verb for each user action."""
