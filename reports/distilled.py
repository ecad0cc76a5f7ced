"""What students learned: by which losses, beside their teacher, beside themselves trained alone, by temperature."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from compress.core.types import Artifact
from reports import words
from reports.lineage import Role
from reports.recipes import recipe_name, term_words, terms_of
from reports.scores import BORN, Scores, change_words, same_split
from reports.tables import Cell, Column, Entry, Table
from reports.temperature_plot import Sweep

_ALONE = ("steps", "size", "batch", "seed")  # options that a training of the same network alone must share
_APART = ("temperature", "seed", "name")  # what may differ within one sweep
_NONE = Cell("–")


@dataclass(frozen=True)
class Distilled:
    """A line for every student, and a sweep for every recipe that was tried at several temperatures."""

    table: Table
    sweeps: tuple[Sweep, ...]
    remarks: tuple[str, ...]


def distilled_of(artifacts: Sequence[Artifact], known: Mapping[str, Artifact], scores: Scores) -> Distilled | None:
    """Set students beside their teachers and beside themselves trained alone; None where there are no students.

    Args:
        artifacts: Those shown, oldest first.
        known: All of the task by id.
        scores: What they lose.
    """
    students = [artifact for artifact in artifacts if artifact.method == "distill"]
    if not students:
        return None
    alone = {student.id: trained_alone(student, known) for student in students}
    names = Counter(student.name for student in students)
    columns = (
        Column("Learned from"), Column("Recipe"), Column("Steps"), Column("Loss", "", "lower"),
        Column("Against teacher", "% of loss", "lower"), Column("Against alone", "% of loss", "lower"),
        *(Column(words.title(name), "", better) for name, better in scores.metrics),
    )  # fmt: skip
    entries = tuple(
        _entry(student, known.get(student.teacher), alone[student.id], known, scores, twin=names[student.name] > 1)
        for student in students
    )
    sweeps = tuple(_sweeps(students, alone, known, scores))
    return Distilled(Table(columns, entries), sweeps, tuple(_said(sweep) for sweep in sweeps))


def trained_alone(student: Artifact, known: Mapping[str, Artifact]) -> Artifact | None:
    """The newest training of the student's network on labels alone, with as many steps of as many pictures.

    Size, seed, data and the builder's options are the same too; None where there is none, and for a student that
    started from another artifact: that has seen more than its own steps.
    """
    if student.parent or student.options.get("init") == "teacher":
        return None
    wanted = _training(student)
    same = [a for a in known.values() if a.method == "train" and not a.teacher and _training(a) == wanted]
    return max(same, key=lambda a: a.created, default=None)


def _training(artifact: Artifact) -> Any:
    options = artifact.options
    data = sorted(map(str, options.get("data") or ()))
    return artifact.network, artifact.network_options, data, [options.get(name) for name in _ALONE]


def _entry(student: Artifact, teacher: Artifact | None, alone: Artifact | None, known: Mapping[str, Artifact],
           scores: Scores, *, twin: bool) -> Entry:  # fmt: skip
    born = not scores.measured(*(a for a in (student, teacher, alone) if a is not None))
    mine = scores.values(student, born=born)
    cells = (
        _teacher(student, teacher),
        _recipe(student),
        _steps(student, known),
        Cell(words.number(mine["loss"]), (BORN,) if born else ()) if "loss" in mine else Cell("–", ("not scored",)),
        _against(student, teacher, scores, born=born, missing="not in the store"),
        _against(student, alone, scores, born=born, missing=_no_alone(student)),
        *(_metric(name, student, teacher, alone, scores, born=born) for name, _ in scores.metrics),
    )
    made = (f"{words.mb(student.bytes)} MB", *([student.id] if twin else []))
    return Entry(student.name, student.id, "distill", made, _rejected(student), cells)


def _rejected(artifact: Artifact) -> str:
    why = artifact.notes.get("rejected")
    return "" if not why else why if isinstance(why, str) else "; ".join(map(str, why))


def _teacher(student: Artifact, teacher: Artifact | None) -> Cell:
    if teacher is None:
        return Cell(str(student.options.get("teacher") or student.teacher or "–"), ("no longer here",))
    smaller = (words.smaller(teacher.bytes / student.bytes),) if student.bytes and teacher.bytes else ()
    return Cell(teacher.name, smaller)


def _recipe(student: Artifact) -> Cell:
    recipe, temperature = student.options.get("recipe"), student.options.get("temperature")
    at = f", T\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{temperature:g}" if isinstance(temperature, int | float) else ""
    terms = terms_of(recipe)
    if not isinstance(recipe, Mapping) or not terms:
        return Cell(f"{recipe if isinstance(recipe, str) and recipe else 'not recorded'}{at}")
    taps = student.options.get("taps") or recipe.get("taps")
    said = [term_words(name, term) for name, term in terms.items()]
    if taps:
        said.append("taps found by name" if taps == "auto" else f"{words.many(len(taps), 'pair')} of taps")
    return Cell(f"{recipe_name(recipe, student.task) or 'own'}{at}", tuple(said))


def _steps(student: Artifact, known: Mapping[str, Artifact]) -> Cell:
    options, parent = student.options, known.get(student.parent)
    start = f"from {parent.name if parent else student.parent}" if student.parent else "from its own weights"
    if options.get("init") == "teacher":
        start = "from the teacher's channels"
    folders, patterns = options.get("unlabelled"), options.get("patterns")
    said = [f"{words.many(folders, 'folder')} without labels"] if isinstance(folders, int) and folders else []
    said += [f"{words.many(patterns, 'pattern')} of each picture"] if isinstance(patterns, int) and patterns else []
    taken = [f"{options['size']} px"] if options.get("size") else []
    taken += [f"batch {options['batch']}"] if options.get("batch") else []
    return Cell(str(options.get("steps") or "–"), (start, *taken, f"seed {student.seed}", *said))


def _no_alone(student: Artifact) -> str:
    if student.parent or student.options.get("init") == "teacher":
        return "starts from weights that were trained before"
    return "never trained alone with these steps"


def _against(student: Artifact, other: Artifact | None, scores: Scores, *, born: bool, missing: str) -> Cell:
    if other is None:
        return Cell("–", (missing,))
    change = scores.change(student, other, born=born)
    first, *ends = change_words(change)
    loss = scores.loss(other, born=born)
    said = (*ends, *([f"of {words.number(loss)}"] if math.isfinite(loss) else []))
    return Cell(first, said, bad=change is not None and change.low is not None and change.beyond(0) > 0)


def _metric(name: str, student: Artifact, teacher: Artifact | None, alone: Artifact | None, scores: Scores, *,
            born: bool) -> Cell:  # fmt: skip
    value = scores.values(student, born=born).get(name)
    if value is None:
        return _NONE
    said: list[str] = []
    for who, other in (("teacher", teacher), ("alone", alone)):
        if other is None or (born and not same_split(student, other)):
            continue
        theirs = scores.values(other, born=born).get(name)
        if theirs is not None:
            said.append(f"{who} {words.number(theirs)}")
            said += [f"{words.percent(value / theirs - 1)} %"] if theirs > 0 else []
    return Cell(words.number(value), tuple(said))


def _sweeps(students: Sequence[Artifact], alone: Mapping[str, Artifact | None], known: Mapping[str, Artifact],
            scores: Scores) -> list[Sweep]:  # fmt: skip
    groups: dict[str, dict[tuple[float, int], Artifact]] = {}
    for student in students:
        temperature = student.options.get("temperature")
        if isinstance(temperature, int | float) and temperature > 0:
            groups.setdefault(_alike(student), {})[float(temperature), student.seed] = student  # the newest wins
    made = []
    for group in groups.values():
        members = list(group.values())
        teacher = known.get(members[0].teacher)
        lone = [one for one in (alone[member.id] for member in members) if one is not None]
        born = not scores.measured(*members, *([teacher] if teacher else []), *lone)
        points = [(T, scores.loss(member, born=born)) for (T, _), member in sorted(group.items())]
        points = [point for point in points if math.isfinite(point[1])]
        if len({T for T, _ in points}) > 1:
            made.append(_sweep(members, points, teacher, lone, scores, born=born))
    return made


def _alike(student: Artifact) -> str:
    """All that one sweep has in common, as text."""
    options = {name: value for name, value in student.options.items() if name not in _APART}
    made = [student.teacher, student.parent, student.data, student.network, student.network_options, options]
    return json.dumps(made, sort_keys=True, default=str)


def _sweep(members: Sequence[Artifact], points: Sequence[tuple[float, float]], teacher: Artifact | None,
           lone: Sequence[Artifact], scores: Scores, *, born: bool) -> Sweep:  # fmt: skip
    first = members[0]
    usable = [a for a in {a.id: a for a in lone}.values() if not born or same_split(first, a)]
    comparable = teacher is not None and (not born or same_split(first, teacher))
    lines: list[tuple[Role, str, float]] = []
    if teacher is not None and comparable:
        lines.append(("teacher", teacher.name, scores.loss(teacher, born=born)))
    if usable:
        lines.append(("train", "trained alone", fmean(scores.loss(a, born=born) for a in usable)))
    recipe = recipe_name(first.options.get("recipe") or {}, first.task) or "own recipe"
    return Sweep(
        anchor=f"t-{first.id}",
        student=first.network or first.name,
        teacher=teacher.name if teacher else first.teacher,
        recipe=recipe,
        points=tuple(points),
        lines=tuple(line for line in lines if math.isfinite(line[2])),
        seeds=len({member.seed for member in members}),
        where=BORN if born else "",
    )


def _said(sweep: Sweep) -> str:
    best, loss = sweep.best
    lone = next((value for role, _, value in sweep.lines if role == "train"), None)
    beside = "" if not lone else f", {words.percent(loss / lone - 1)} % against the same network trained alone"
    return (f"{sweep.student} learns most from {sweep.teacher} by {sweep.recipe} at T = {best:g}: "
            f"loss {words.number(loss)}{beside}.")  # fmt: skip
