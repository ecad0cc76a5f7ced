"""Benchmarks: what every model costs on every target, each in a fresh process, measured in turns."""
