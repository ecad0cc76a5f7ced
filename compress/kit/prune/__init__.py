"""Structured pruning of torch modules: which channels go together, which matter, how they are cut out."""
