"""The only code that knows architectures: load, sites, hooks, capture, generate, self-check."""
