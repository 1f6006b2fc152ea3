"""Did behaviour change, what did it cost, can the model still be read? Held-out rows only."""
