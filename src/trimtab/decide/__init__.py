"""Spec and forecast to rulings: rules, similarity of meaning, and questions for a human. No torch."""
