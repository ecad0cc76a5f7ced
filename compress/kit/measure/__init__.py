"""Losses and metrics: pure functions of pictures."""
