"""The only writers: one file per training-time intervention."""
