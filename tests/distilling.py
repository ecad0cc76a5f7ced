"""What tests of several tasks ask of a task's own recipe."""

from compress.kit.distill.recipe import default_recipe, read_recipe
from compress.kit.distill.view import View


def distil(task, student, teacher, batch, temperature):
    """What a student of the task learns from a teacher's raw outputs where the user names no recipe."""
    view = View(task, student, teacher, batch, temperature=temperature)
    return read_recipe(default_recipe(task.name), task.name).loss(view)
