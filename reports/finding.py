"""What the page may say in a sentence: composed from the data, and no more than its intervals carry."""

from __future__ import annotations

from collections.abc import Sequence

from reports import words
from reports.compare import Line, Setting


def finding(lines: Sequence[Line], settings: Sequence[Setting]) -> str:
    """The headline: the smallest model that loses nothing measurable, else the one that loses least."""
    settings, teacher = quotable(settings), lines[0]
    able = _candidates(lines)
    if not able:
        return _nothing(lines)
    even = [line for line in able if line.change is not None and line.change.low is not None and line.change.low <= 0]
    chosen = min(even, key=lambda line: line.size) if even else min(able, key=lambda line: line.values["loss"])
    return sentence(chosen, teacher, settings)


def quotable(settings: Sequence[Setting]) -> list[Setting]:
    """Settings whose speed may stand in a sentence: a processor that imitates a card tells nothing of a card."""
    return [setting for setting in settings if not setting.software]


def remarks(lines: Sequence[Line], settings: Sequence[Setting]) -> list[str]:
    """What else stands out: the smallest and the fastest model, where the headline does not name them already."""
    settings = quotable(settings)
    said = {finding(lines, settings)}
    able, teacher = _candidates(lines), lines[0]
    if not able:
        return []
    picks = [("Smallest", min(able, key=lambda line: line.size))]
    quick = [line for line in able if _is_faster(line, settings)]
    if quick:
        picks.append(("Fastest", max(quick, key=lambda line: _ratio(line, settings))))
    found = []
    for word, line in picks:
        text = sentence(line, teacher, settings)
        if text not in said:
            said.add(text)
            found.append(f"{word}: {text}")
    return found


def warnings(lines: Sequence[Line]) -> list[str]:
    """What a reader must not miss: dead masks and rejected models."""
    dead = [
        f"{line.artifact.name}: {words.many(line.values['dead_masks'], 'dead mask')}"
        + (f" in {words.many(line.values['images'], 'image')}" if line.values.get("images") else "")
        for line in lines
        if line.values.get("dead_masks", 0) > 0
    ]
    return dead + [f"{line.artifact.name} was rejected: {line.rejected}" for line in lines if line.rejected]


def sentence(line: Line, teacher: Line, settings: Sequence[Setting]) -> str:
    """One model against its teacher in size, speed and loss."""
    gains = [words.smaller(line.size_ratio)]
    asides = ""
    faster = line.speeds[settings[0]].faster if settings and settings[0] in line.speeds else None
    if faster is not None and faster.beyond(1):
        side = faster.value if faster.value > 1 else 1 / faster.value
        gains.append(f"{words.three(side)}× {'faster' if faster.value > 1 else 'slower'}")
        asides = f" on {settings[0].target}"
    elif faster is not None and faster.low is not None:
        asides = f" at no measurable change in speed on {settings[0].target}"
    loss = f", {words.loss_words(line.change)}" if line.change is not None else ", its loss not compared"
    return f"{line.artifact.name} is {words.listed(gains)} than {teacher.artifact.name}{asides}{loss}."


def _candidates(lines: Sequence[Line]) -> list[Line]:
    return [
        line
        for line in lines[1:]
        if line.size_ratio > 1.005  # else it would read "same size"
        and not line.rejected
        and line.change is not None
        and line.values.get("dead_masks", 0) <= lines[0].values.get("dead_masks", 0)
    ]


def _is_faster(line: Line, settings: Sequence[Setting]) -> bool:
    known = line.speeds.get(settings[0]) if settings else None
    return known is not None and known.faster is not None and known.faster.beyond(1) > 0


def _ratio(line: Line, settings: Sequence[Setting]) -> float:
    faster = line.speeds[settings[0]].faster
    assert faster is not None, "only asked of those that are faster"
    return faster.value


def _nothing(lines: Sequence[Line]) -> str:
    teacher, others = lines[0], len(lines) - 1
    name = teacher.artifact.name
    if not others:
        return f"Only the teacher, {name}, is here: {words.mb(teacher.size)} MB; nothing to compare yet."
    if "loss" not in teacher.values:
        return f"{words.many(others, 'model')} beside {name}, whose loss was not measured: nothing to compare yet."
    return f"No model here is smaller than {name} with its loss compared and no more dead masks."
