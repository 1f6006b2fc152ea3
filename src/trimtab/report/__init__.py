"""Run folder in, one self-contained HTML page out (no torch)."""
