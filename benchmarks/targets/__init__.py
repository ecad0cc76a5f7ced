"""Targets: the runtimes a model is measured on, one file each; the file name is the name."""

from benchmarks.targets.base import Target
from compress.core.registry import Room

TARGETS: Room[Target] = Room("benchmarks.targets", "target", dashed=True)
