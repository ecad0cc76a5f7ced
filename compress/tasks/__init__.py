"""Tasks: what data, loss, metrics, post-processing and temperature mean for one kind of picture."""

from compress.core.registry import Room
from compress.tasks.base import Task

TASKS: Room[Task] = Room("compress.tasks", "task")
