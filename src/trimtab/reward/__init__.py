"""Feature rewards: claims, their graders, readings of the frozen host, and what a student earns for them."""
