"""From a job to the words of its command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results.plan import EARLIER, RECIPES, Family, Job
from compress.core.types import Artifact

# at --quick, flags that decide the time: nothing learns anything, everything runs
_QUICK: Mapping[str, Mapping[str, Any]] = {
    "train": {"steps": 2, "size": 32, "batch": 2, "width": 4},
    "distill": {"steps": 2, "size": 32, "batch": 2, "width": 4},
    "torchdistill": {"steps": 2, "size": 32, "batch": 2, "width": 4},
    "prune": {"round_to": 1, "force": True, "ratio": 0.5, "macs": None},
    "quantize": {"calibration": 2, "selection": 2, "tune": "none", "method": "minmax", "force": True},
}
CHECKPOINT = 50  # steps that an interrupted run loses at most


@dataclass(frozen=True)
class Setting:
    """Where everything lies and whether it is in earnest."""

    store: Path
    root: Path
    quick: bool = False


def data_of(family: Family, setting: Setting, *, test: bool = False) -> tuple[str, ...]:
    """Folders of the family's pictures, to train from or to score; made-up ones at --quick."""
    if setting.quick:
        return ("builtin",)
    return tuple(str(setting.root / part) for part in (family.test if test else family.data))


def missing(family: Family, setting: Setting) -> tuple[str, ...]:
    """Folders that are not there."""
    wanted = {*data_of(family, setting), *data_of(family, setting, test=True)} - {"builtin"}
    return tuple(sorted(folder for folder in wanted if not Path(folder).is_dir()))


def words(job: Job, family: Family, setting: Setting, made: Mapping[str, Artifact], T: float | None) -> list[str]:
    """Return the command of a job, without the program's own name.

    Args:
        job: What to make.
        family: Its family.
        setting: See ``Setting``.
        made: Networks of the stages it needs, by the stage's name.
        T: The temperature, where the plan leaves it to a sweep.
    """
    flags = dict(job.stage.flags)
    if T is not None:
        flags["T"] = f"{T:g}"
    if setting.quick:
        flags |= _QUICK[job.stage.run]
        if str(flags.get("student", "")).startswith(EARLIER):
            flags["width"] = None  # what was pruned is built already
    found = [job.stage.run]
    for key, value in flags.items():
        found += _word(key, value, made)
    for folder in data_of(family, setting):
        found += ["--data", folder]
    found += ["--seed", str(job.seed), "--name", job.name, "--store", str(setting.store)]
    trains = job.stage.run in ("train", "distill", "torchdistill")
    return [*found, *(["--resume", "--checkpoint-every", str(CHECKPOINT)] if trains else [])]


def _word(key: str, value: Any, made: Mapping[str, Artifact]) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, str) and value.startswith(EARLIER):
        return [flag, made[value.removeprefix(EARLIER)].id]
    if key == "recipe" and str(value).endswith(".toml"):
        return [flag, str(RECIPES / value)]
    return [flag, str(value)]
