"""Whole runs as short Python files, with the figures to expect."""
