"""How each number was made: machines, runs with their commands, data sets, the making of each model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compress.core.types import Artifact, Machine
from reports import words
from reports.frame import ELSEWHERE
from reports.lineage import command_of

_OURS = ("data", "split", "size", "width", "batch", "threads", "runtime", "block", "before", "sources")
_TOLD = ("plan", "rejected")  # notes that the page shows elsewhere


@dataclass(frozen=True)
class Run:
    """Rows that were measured together."""

    id: str
    when: str
    target: str
    models: tuple[str, ...]
    quantities: tuple[str, ...]
    setting: str
    software: str
    machine: str
    data: str
    command: str


@dataclass(frozen=True)
class Made:
    """The making of one model, as its manifest tells it."""

    name: str
    artifact: str
    command: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Data:
    """A data set that something was scored on or made with."""

    fingerprint: str
    use: str


class Machines:
    """Machines by label: M1, M2 ... in the order they turn up."""

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self.list: list[tuple[str, Machine]] = []

    def label(self, machine: Machine) -> str:
        """Label of a machine, a new one for one that was not seen yet; the threads it used don't tell it apart."""
        key = json.dumps([machine.cpu, machine.flags, machine.cores, machine.memory_bytes, machine.gpu, machine.system,
                          machine.python, machine.versions], sort_keys=True)  # fmt: skip
        if key not in self._seen:
            self._seen[key] = f"M{len(self._seen) + 1}"
            self.list.append((self._seen[key], machine))
        return self._seen[key]


def runs_of(frame: pd.DataFrame, machines: Machines) -> list[Run]:
    """The runs behind these rows, newest first, one a target."""
    groups = [group for _, group in frame.groupby(["run", "target"], sort=False)]
    return [_run(group, machines) for group in sorted(groups, key=lambda g: -int(g["order"].max()))]


def _run(rows: pd.DataFrame, machines: Machines) -> Run:
    told = rows[[bool(details.get("runtime")) for details in rows["details"]]]  # what failed may know no runtime
    last = (told if len(told) else rows).iloc[-1]
    details: Mapping[str, Any] = last["details"]
    software = dict(details.get("runtime") or {k: v for k, v in details.items() if k not in _OURS})
    data = next((value for value in rows["data"] if value), "")
    return Run(
        id=str(last["run"]),
        when=when(str(last["created"])),
        target=str(last["target"]),
        models=tuple(dict.fromkeys(rows["name"])),
        quantities=tuple(dict.fromkeys(rows["quantity"])),
        setting=_setting(rows),
        software=_software(software),
        machine=machines.label(last["machine"]),
        data=data,
        command=_command(rows),
    )


def _software(described: dict[str, Any]) -> str:
    name = " ".join(plain(described.pop(key)) for key in ("runtime", "version") if key in described)
    return ", ".join([*([name] if name else []), *(f"{key} {plain(value)}" for key, value in described.items())])


def _setting(rows: pd.DataFrame) -> str:
    measured = rows[~rows["quantity"].isin(ELSEWHERE)].iloc[-1]
    parts = [f"{measured['pixels']} px"] if measured["pixels"] else []
    parts += [f"batch {measured['batch']}"] if measured["batch"] else []
    threads = int(measured["threads"])
    repeats = _repeats(rows)
    parts += [words.many(threads, "thread")] if threads else []
    parts += [f"{repeats} repeats"] if repeats else []
    return ", ".join(parts)


def _repeats(rows: pd.DataFrame) -> int:
    counts = [len(samples) for samples in rows[rows["quantity"] == "latency"]["repeats"]]
    return max(counts, default=0)


def _command(rows: pd.DataFrame) -> str:
    """The command that measures it again, from what the rows say."""
    models = list(dict.fromkeys(rows["artifact"]))
    last = rows[~rows["quantity"].isin(ELSEWHERE)].iloc[-1]
    scored = rows[rows["group"] == "quality"]
    timed = bool((rows["group"] != "quality").any())
    command = ["benchmarks", "run", *_target(last)] if timed else ["compress", "evaluate"]
    for model in models:
        command += ["--model", model]
    command += ["--size", str(last["pixels"])] if last["pixels"] else []
    if timed:
        command += ["--batch", str(last["batch"])] if last["batch"] else []
        threads = last["details"].get("threads") or last["threads"]
        command += ["--threads", str(threads), *(["--repeats", str(n)] if (n := _repeats(rows)) else [])]
    if len(scored):
        command += ["--split", scored.iloc[-1]["split"]] if scored.iloc[-1]["split"] else []
        for folder in scored.iloc[-1]["details"].get("sources", ["DIR"]):
            command += ["--data", folder]
    elif timed:
        command += ["--limit", "0"]
    return shlex.join(command)


def _target(row: pd.Series[Any]) -> list[str]:
    """The flags that choose a target: in a browser its label also tells the runtime and the browser."""
    name = str(row["target"])
    if not row["web"]:
        return ["--target", name]
    flags = ["--target", name.removeprefix("ort-").removesuffix("-firefox")]
    flags += ["--runtime", "ort-web"] if name.startswith("ort-") else []
    return flags + (["--browser", "firefox"] if name.endswith("-firefox") else [])


def made_of(artifact: Artifact, known: Mapping[str, Artifact], machines: Machines) -> Made:
    """Everything the manifest says about how a model came to be."""
    facts = [
        ("made from", _named(artifact.parent, known)),
        ("learned from", _named(artifact.teacher, known)),
        ("seed", str(artifact.seed)),
        ("data", artifact.data),
        ("network", _network(artifact)),
        ("file", f"{artifact.format}, {artifact.dtype}, {words.mb(artifact.bytes)} MB"),
        ("at birth, validation split", ", ".join(f"{k} {v:.4g}" for k, v in artifact.metrics.items())),
        ("made", f"{when(artifact.created)}, in {words.three(artifact.seconds)} s"),
        ("machine", machines.label(artifact.machine)),
        ("commit", artifact.commit),
        ("sha256", ", ".join(f"{file.path} {file.sha256}" for file in artifact.files if file.ships)),
    ]
    notes = tuple((name.replace("_", " "), plain(value)) for name, value in artifact.notes.items() if name not in _TOLD)
    return Made(artifact.name, artifact.id, command_of(artifact), tuple(f for f in facts if f[1]), notes)


def _network(artifact: Artifact) -> str:
    options = plain(artifact.network_options) if artifact.network_options else ""
    size = f"{artifact.input.height}×{artifact.input.width} px"
    return ", ".join(part for part in (artifact.network, options, size) if part)


def _named(reference: str, known: Mapping[str, Artifact]) -> str:
    return f"{known[reference].name} ({reference})" if reference in known else reference


def data_of(frame: pd.DataFrame, artifacts: Iterable[Artifact]) -> list[Data]:
    """Data sets by fingerprint, and what each was used for."""
    uses: dict[str, list[str]] = {}
    for (fingerprint, split), rows in frame[frame["data"] != ""].groupby(["data", "split"], sort=False):
        images = rows[rows["quantity"] == "images"]["value"]
        count = f", {images.iloc[-1]:.0f} images" if len(images) else ""
        uses.setdefault(str(fingerprint), []).append(f"scored on its {split} split{count}")
    for artifact in artifacts:
        if artifact.data:
            folders = artifact.options.get("data") or ()
            given = f" (--data {' '.join(map(str, folders))})" if folders else ""
            uses.setdefault(artifact.data, []).append(f"{artifact.method} of {artifact.name}{given}")
    return [Data(fingerprint, "; ".join(dict.fromkeys(said))) for fingerprint, said in uses.items()]


def machine_facts(machine: Machine) -> Sequence[tuple[str, str]]:
    """A machine in words."""
    facts = [
        ("processor", f"{machine.cpu}, {machine.cores} logical cores"),
        ("vector flags", ", ".join(machine.flags)),
        ("memory", f"{words.three(machine.memory_bytes / 1e9)} GB" if machine.memory_bytes else ""),
        ("card", machine.gpu or "none"),
        ("system", machine.system),
        ("software", ", ".join(f"{k} {v}" for k, v in {"Python": machine.python, **machine.versions}.items())),
    ]
    return [fact for fact in facts if fact[1]]


def when(created: str) -> str:
    """A UTC time to the minute."""
    return f"{created[:16].replace('T', ' ')} UTC" if created else "at a time not recorded"


def plain(value: Any) -> str:
    """A value of a manifest on one line."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    return str(value)
