"""File formats: each file of this room writes, reads and runs one of them."""

from __future__ import annotations

from compress.core.registry import Room
from compress.formats.base import Format

FORMATS: Room[Format] = Room("compress.formats", "format")
