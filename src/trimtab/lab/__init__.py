"""The embedded lab: a small pretrained world whose truth is planted, so that every claim can be checked exactly."""
