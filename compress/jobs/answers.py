"""What people answered on a "fake or real?" page: their files read, and summed up with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from compress.core.errors import DataError
from compress.jobs.turing import MARK, SCHEMA, Model
from compress.kit.intervals import LEVEL, Interval

Answer = Literal["real", "fake"]


@dataclass(frozen=True)
class Sheet:
    """One person's answers to one page: (truth, answer) of each picture; truth is "real" or a model's id."""

    page: str
    person: str
    finished: str
    task: str
    models: tuple[Model, ...]
    answers: tuple[tuple[str, Answer], ...]


def read_sheet(path: Path) -> Sheet:
    """Read the file a page lets people download.

    Raises:
        DataError: If there is none, or it is something else.
    """
    if not path.is_file():
        raise DataError(f"no answers at '{path}'", hint="give the files that the page downloads")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["kind"] != MARK:
            raise ValueError(f"its kind is {data['kind']!r}")
        if data["schema"] > SCHEMA:
            raise DataError(f"'{path}' has schema {data['schema']}, this version reads up to {SCHEMA}",
                            hint="update image-compress")  # fmt: skip
        models = tuple(Model(str(model["id"]), str(model["name"])) for model in data["models"])
        known = {"real", *(model.id for model in models)}
        answers = tuple((entry["truth"], entry["answer"]) for entry in data["answers"])
        if not answers or any(truth not in known or answer not in ("real", "fake") for truth, answer in answers):
            raise ValueError("an answer is neither real nor fake, or of an unknown picture")
        return Sheet(str(data["page"]), str(data["person"]), str(data["finished"]), str(data["task"]), models, answers)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"'{path}' holds no answers of a page: {' '.join(str(error).split())}",
                        hint="give the files that the page downloads") from error  # fmt: skip


def last_of_each(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Keep the last answers of each person to each page."""
    return list({(s.page, s.person): s for s in sorted(sheets, key=lambda s: s.finished)}.values())


@dataclass(frozen=True)
class Tally:
    """How often pictures of one kind were taken for real.

    Args:
        model: Whose pictures; None for the real ones.
        taken: Answers "real".
        people: Who answered.
        wilson: Share, and its interval as if every answer were a person of its own.
        clustered: Share, and its interval with people as what was drawn; empty below two people.
    """

    model: Model | None
    taken: int
    people: int
    wilson: Interval
    clustered: Interval


def sum_up(sheets: Sequence[Sheet]) -> list[Tally]:
    """Sum several people's answers up: one tally for each model, in order of name, and the last for real pictures."""
    models = {model.id: model for sheet in sheets for model in sheet.models}
    order = [*sorted(models.values(), key=lambda model: (model.name, model.id)), None]
    return [_tally(model, sheets) for model in order]


def _tally(model: Model | None, sheets: Sequence[Sheet]) -> Tally:
    truth = "real" if model is None else model.id
    counts: dict[str, tuple[int, int]] = {}  # by person, over all pages: taken for real, shown
    for sheet in sheets:
        given = [answer == "real" for what, answer in sheet.answers if what == truth]
        taken, shown = counts.get(sheet.person, (0, 0))
        counts[sheet.person] = (taken + sum(given), shown + len(given))
    pairs = [pair for pair in counts.values() if pair[1]]
    taken, shown = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return Tally(model, taken, len(pairs), wilson(taken, shown), clustered(pairs))


def wilson(taken: float, shown: float, z: float | None = None) -> Interval:
    """Share ``taken`` of ``shown`` with Wilson's 95 % score interval (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    z: Quantile of the normal law; that of 95 % when None. ``shown`` may be a fraction: an effective number.
    """
    if not shown:
        return Interval(float("nan"), None, None, 0)
    z = float(stats.norm.ppf((1 + LEVEL) / 2)) if z is None else z
    share, square = taken / shown, z * z
    centre = (share + square / (2 * shown)) / (1 + square / shown)
    half = z / (1 + square / shown) * float(np.sqrt(share * (1 - share) / shown + square / (4 * shown * shown)))
    return Interval(share, max(centre - half, 0.0), min(centre + half, 1.0), round(shown))


def clustered(pairs: Sequence[tuple[int, int]]) -> Interval:
    """Share with a 95 % interval that counts people, not answers: one person's answers hang together.

    Wilson's interval at the effective number of answers: their number over the design effect, the variance of the
    ratio estimator over people (Cochran 1977, section 6.3 and 9A) by that of a binomial, at least 1, and corrected for
    few people by (z / t)^2 with one degree of freedom less than people (Korn & Graubard 1998). The pictures count as
    fixed: it says what other people would say of the same pictures.

    pairs: (taken for real, shown) of each person.
    """
    people, shown = len(pairs), sum(pair[1] for pair in pairs)
    taken = sum(pair[0] for pair in pairs)
    share = taken / shown if shown else float("nan")
    if people < 2:
        return Interval(share, None, None, people)
    residuals = np.array([hits - share * seen for hits, seen in pairs], np.float64)
    variance = people / (people - 1) * float(np.square(residuals).sum()) / shown**2
    binomial = share * (1 - share) / shown
    effect = max(variance / binomial, 1.0) if binomial else 1.0
    z, t = stats.norm.ppf((1 + LEVEL) / 2), stats.t.ppf((1 + LEVEL) / 2, people - 1)
    effective = shown / effect * float(z / t) ** 2
    found = wilson(share * effective, effective)
    return Interval(share, found.low, found.high, people)


def in_json(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain JSON."""
    return {
        "model": tally.model.id if tally.model else "real",
        "name": tally.model.name if tally.model else "real pictures",
        "taken": tally.taken,
        "shown": tally.wilson.n,
        "people": tally.people,
        "share": tally.wilson.value if tally.wilson.n else None,
        "wilson": [tally.wilson.low, tally.wilson.high],
        "by_person": [tally.clustered.low, tally.clustered.high],
    }
