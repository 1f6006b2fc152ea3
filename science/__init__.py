"""Slow experiments on the lab: ``make science`` runs them and writes ``science/results/*.json``."""
