"""Frozen records: the only things that cross layers. No torch."""
