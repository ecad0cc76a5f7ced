"""Chains of stages: every final model with what it went through, its size and its loss after each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compress.core.types import Artifact
from reports import words
from reports.lineage import role_of
from reports.scores import BORN, Scores, same_split
from reports.tables import Cell, Column, Entry, Table

_LEAST = 3  # models of a chain that is told: a single step is told elsewhere


def chains_of(artifacts: Sequence[Artifact], known: Mapping[str, Artifact], teacher: Artifact,
              scores: Scores) -> Table | None:  # fmt: skip
    """A line for each model that nothing was made from, a cell for each step that led there; None where all are short.

    Args:
        artifacts: Those shown, oldest first.
        known: All of the task by id.
        teacher: The page's.
        scores: What they lose.
    """
    used = {a.parent for a in known.values()}
    paths = [path_to(artifact, known) for artifact in artifacts if artifact.id not in used]
    paths = [path for path in paths if len(path) >= _LEAST]
    if not paths:
        return None
    longest = max(map(len, paths))
    columns = (Column("Start"), *(Column(f"Step {number}") for number in range(1, longest)))
    return Table(columns, tuple(_entry(path, longest, known, teacher, scores) for path in paths))


def path_to(artifact: Artifact, known: Mapping[str, Artifact]) -> list[Artifact]:
    """The models that led to ``artifact``, the first one first.

    Parents back to one that was made from nothing; before it the teacher, where it learned from one.
    """
    path, seen = [artifact], {artifact.id}
    while (before := known.get(path[0].parent)) is not None and before.id not in seen:
        path.insert(0, before)
        seen.add(before.id)
    learned = known.get(path[0].teacher) if not path[0].parent else None
    return path if learned is None or learned.id in seen else [learned, *path]


def _entry(path: Sequence[Artifact], longest: int, known: Mapping[str, Artifact], teacher: Artifact,
           scores: Scores) -> Entry:  # fmt: skip
    last = path[-1]
    born = not scores.measured(*path)
    cells = [_cell(artifact, path[0], known, scores, born=born) for artifact in path]
    cells += [Cell("")] * (longest - len(path))
    size = words.smaller(path[0].bytes / last.bytes) if last.bytes and path[0].bytes else ""
    made = tuple(text for text in (size, f"losses: {BORN}" if born else "") if text)
    rejected = "it failed the check it was made under" if last.notes.get("rejected") else ""
    return Entry(last.name, last.id, role_of(last, teacher), made, rejected, tuple(cells))


def _cell(artifact: Artifact, first: Artifact, known: Mapping[str, Artifact], scores: Scores, *, born: bool) -> Cell:
    what = f"{artifact.method} {artifact.dtype}" if artifact.dtype != "float32" else artifact.method
    learned = known.get(artifact.teacher)
    said = [f"{words.mb(artifact.bytes)} MB"]
    loss = scores.values(artifact, born=born).get("loss")
    if loss is not None:
        said.append(f"loss {words.number(loss)}")
        theirs = scores.values(first, born=born).get("loss")
        if artifact.id != first.id and theirs and (not born or same_split(artifact, first)):
            said.append(f"{words.percent(loss / theirs - 1)} %")
    said += [f"learned from {learned.name}"] if learned is not None and artifact.parent else []
    return Cell(what, (artifact.name, *said), bad=bool(artifact.notes.get("rejected")))
