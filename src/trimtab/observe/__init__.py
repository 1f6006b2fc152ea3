"""What would this data teach, in named concepts, and how much of it has no name? Read-only."""
