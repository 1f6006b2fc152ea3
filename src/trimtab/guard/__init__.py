"""Guards at inference time: what is read while a model answers."""
