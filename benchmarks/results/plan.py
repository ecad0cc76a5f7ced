"""What the table needs: families, their stages with seeds, and what is claimed of them, read from ``plan/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from compress.core.errors import UsageError, did_you_mean, unknown

FOLDER = Path(__file__).parent / "plan"
RECIPES = Path(__file__).parent / "recipes"
EARLIER = "@"  # "@name" is what the stage of that name made: of the same seed, or the only one there is
TEACHER = "teacher"  # name of the stage whose network teaches a family
COMMANDS = ("train", "distill", "torchdistill", "prune", "quantize")
_KEYS = ("about", "data", "test", "split", "metrics", "size", "train", "stage", "claim")


@dataclass(frozen=True)
class Stage:
    """One way of making a network, once or with every seed.

    Args:
        name: Within the family.
        run: The command.
        flags: Its flags; a value "@name" stands for what another stage made.
        once: Whether it is made with seed 0 alone.
        sweep: Temperatures that seed 0 is trained at; the one of least validation loss is that of all seeds.
        step: Seconds a training step takes on two idle cores; 0 where there are no steps.
        minutes: What the rest takes there.
        tells: For the table.
    """

    name: str
    run: str
    flags: Mapping[str, Any]
    once: bool = False
    sweep: tuple[float, ...] = ()
    step: float = 0.0
    minutes: float = 0.5
    tells: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the stages whose networks it is made from."""
        return tuple(v.removeprefix(EARLIER) for v in self.flags.values() if isinstance(v, str) and v[:1] == EARLIER)

    @property
    def estimate(self) -> float:
        """Minutes on two idle cores."""
        return self.minutes + self.step * float(self.flags.get("steps", 0)) / 60


@dataclass(frozen=True)
class Claim:
    """What is said of a stage's networks beside another's, all of it at once.

    Args:
        says: For people.
        who: The stage.
        against: The other; "" where nothing is compared.
        metric: Smaller is better; see ``statistics.METRICS``.
        ratio: Largest ratio of the two means.
        rise: Largest difference of the two means.
        better: Whether the 95 % interval of the difference has to lie below zero.
        not_worse: Whether it must not lie above zero.
        bytes: Largest file.
        macs: Largest share of the other's multiplications.
    """

    says: str
    who: str
    against: str = ""
    metric: str = "loss"
    ratio: float | None = None
    rise: float | None = None
    better: bool = False
    not_worse: bool = False
    bytes: int | None = None
    macs: float | None = None


@dataclass(frozen=True)
class Family:
    """One kind of pictures: its data, stages in an order in which they can be made, and claims.

    Args:
        name: Of the file.
        about: One line.
        data: Folders to train from, below the data root.
        test: Folders that are scored, whose split does not depend on the seed.
        split: Part of them, seen by no training.
        metrics: What the table shows.
        stages: See ``Stage``.
        claims: See ``Claim``.
    """

    name: str
    about: str
    data: tuple[str, ...]
    test: tuple[str, ...]
    split: str
    metrics: tuple[str, ...]
    stages: tuple[Stage, ...]
    claims: tuple[Claim, ...]

    def stage(self, name: str) -> Stage:
        """Return the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


@dataclass(frozen=True)
class Job:
    """One run of a stage: its seed, and its temperature where several are tried."""

    family: str
    stage: Stage
    seed: int
    temperature: float | None = None  # None in a sweep: that of the winner, which is known once seed 0 is trained

    @property
    def name(self) -> str:
        """Of the job, and of the artifact it makes."""
        tried = "" if self.temperature is None else f"-T{self.temperature:g}"
        return f"{self.family}-{self.stage.name}{tried}-s{self.seed}"


def jobs(family: Family, seeds: int) -> Iterator[Job]:
    """Every run of a family's stages, in order; of a sweep its temperatures at seed 0 first, then the winner's."""
    for stage in family.stages:
        yield from (Job(family.name, stage, 0, T) for T in stage.sweep)
        yield from (Job(family.name, stage, seed) for seed in range(1 if stage.once else seeds))


def family_names() -> tuple[str, ...]:
    """Names of the families, the first one's claims first."""
    names = [path.stem for path in FOLDER.glob("*.toml")]
    return tuple(sorted(names, key=lambda name: (name != "saliency", name)))


def read_family(name: str, folder: Path = FOLDER) -> Family:
    """Read a family's plan.

    Raises:
        UsageError: If there is none, or it has keys, commands or references that can't be.
    """
    path = folder / f"{name}.toml"
    if not path.is_file():
        raise unknown("family", name, [each.stem for each in sorted(folder.glob("*.toml"))])
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
    _check(path, table, _KEYS)
    shared = table.get("train", {})
    stages: list[Stage] = []
    for entry in table["stage"]:
        stages.append(_stage(path, entry, shared, [stage.name for stage in stages]))
    claims = tuple(_claim(path, entry, [stage.name for stage in stages]) for entry in table.get("claim", ()))
    return Family(
        name=name,
        about=table["about"],
        data=tuple(table["data"]),
        test=tuple(table.get("test", table["data"])),
        split=table.get("split", "test"),
        metrics=tuple(table["metrics"]),
        stages=tuple(stages),
        claims=claims,
    )


def _stage(path: Path, entry: Mapping[str, Any], shared: Mapping[str, Any], before: Sequence[str]) -> Stage:
    own = {field.name for field in fields(Stage)} - {"flags", "name"} | {"as"}
    name, run = entry.get("as", ""), entry.get("run", "")
    if run not in COMMANDS:
        raise UsageError(f"{path}: stage '{name}' runs '{run}'{did_you_mean(run, COMMANDS)}")
    if not name or name in before:
        raise UsageError(f"{path}: a stage's name is '{name}', wanted one of its own for each")
    trains = run in ("train", "distill", "torchdistill")
    flags = {**(shared if trains else {}), **{key: value for key, value in entry.items() if key not in own}}
    stage = Stage(
        name=name,
        run=run,
        flags=flags,
        once=entry.get("once", False),
        sweep=tuple(map(float, entry.get("sweep", ()))),
        step=entry.get("step", 0.0),
        minutes=entry.get("minutes", 0.5),
        tells=entry.get("tells", ""),
    )
    for need in stage.needs:
        if need not in before:
            raise UsageError(f"{path}: stage '{name}' wants '@{need}', no stage before it{did_you_mean(need, before)}")
    return stage


def _claim(path: Path, entry: Mapping[str, Any], stages: Sequence[str]) -> Claim:
    _check(path, entry, [field.name for field in fields(Claim)])
    claim = Claim(**entry)
    for name in (claim.who, claim.against or claim.who):
        if name not in stages:
            raise UsageError(f"{path}: a claim names '{name}', no stage{did_you_mean(name, stages)}")
    return claim


def _check(path: Path, table: Mapping[str, Any], known: Sequence[str]) -> None:
    odd = [key for key in table if key not in known]
    if odd:
        raise UsageError(f"{path}: unknown key {odd[0]}{did_you_mean(odd[0], known)}")
