"""The whole loop for one run; ``run.py`` reads top to bottom."""
