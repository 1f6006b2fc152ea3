"""Training students with controls attached: run folders, checkpoints, resume, workers."""
