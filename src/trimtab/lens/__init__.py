"""Instruments that read one concept at a site: directions, word counts, banks."""
