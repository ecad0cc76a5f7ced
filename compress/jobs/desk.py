"""The desk every method works at: the store, the stage it is about to make, and how its result is told."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from compress.core.console import log
from compress.core.machine import commit, this_machine, versions
from compress.core.options import Common, Making, Seen, deciding
from compress.core.store import Store, stage_key
from compress.core.types import Artifact, to_json


@dataclass(frozen=True)
class Stage:
    """One artifact about to be made: what decides it, and since when it has been in the making."""

    method: str
    options: Mapping[str, Any]
    key: str
    data: str
    parent: Artifact | None
    teacher: Artifact | None
    started: float

    def artifact(self, **fields: Any) -> Artifact:
        """Fill in everything about the making; the caller gives what the network is."""
        parent, teacher = self.parent, self.teacher
        return Artifact(
            id="",
            files=(),
            method=self.method,
            options=dict(self.options),
            parent=parent.id if parent else "",
            parent_sha256=parent.sha256 if parent else "",
            teacher=teacher.id if teacher else "",
            key=self.key,
            data=self.data,
            machine=this_machine(),
            versions=versions(),
            commit=commit(),
            created=now(),
            seconds=time.monotonic() - self.started,
            **fields,
        )


def now() -> str:
    """Time of day in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


S = TypeVar("S", bound=Seen)


def with_data(options: S, model: Artifact | None = None) -> S:
    """Return the options with their data settled: as given, else what ``model`` was made with, else builtin."""
    if options.data:
        return options
    made_with = tuple(model.options.get("data", ())) if model else ()
    gone = [folder for folder in made_with if folder != "builtin" and not Path(folder).is_dir()]
    if model and gone:
        log.warning("%s was made with %s, which is not here: builtin pictures are taken", model.name, ", ".join(gone))
    data = made_with if made_with and not gone else ("builtin",)
    if model and data != ("builtin",):
        log.info("data: %s, which %s was made with", ", ".join(data), model.name)
    return dataclasses.replace(options, data=data)


def stage(
    method: str,
    options: Making,
    *,
    data: str = "",
    parent: Artifact | None = None,
    teacher: Artifact | None = None,
    resolved: Mapping[str, Any] | None = None,
) -> Stage:
    """Name the stage these options stand for.

    Args:
        method: The sub-command.
        options: As given.
        data: Fingerprint of the data, "" for none.
        parent: What it is made from.
        teacher: What it learns from.
        resolved: Options the command settled itself ("auto" and defaults), over those given.
    """
    settled = deciding(options) | dict(resolved or {})
    # a model and a folder count by what they hold, not by where they lie
    counted = {key: value for key, value in settled.items() if key not in ("data", "model")}
    lineage = [f"{a.id}:{a.sha256}" for a in (parent, teacher) if a is not None]
    key = stage_key(method, counted, lineage=lineage, data=data)
    return Stage(method, settled, key, data, parent, teacher, time.monotonic())


def found(store: Store, planned: Stage, options: Making) -> Artifact | None:
    """Return the finished artifact of just this stage, unless the user wants it made again.

    Raises:
        CompressError: If it must be made and the store can't be written.
    """
    artifact = None if options.again else store.find(planned.key)
    if artifact is not None:
        log.info("found %s (%s), made %s with these options; --again makes it anew",
                 artifact.id, artifact.name, artifact.created[:19])  # fmt: skip
        return artifact
    with store.draft():  # a store that can't be written shows now, not after hours of work
        return None


def planned_only(options: Common, planned: Stage, what: str) -> bool:
    """Tell the plan and return True when the user asked for a dry run."""
    if not options.dry_run:
        return False
    plan = {"plan": what, "method": planned.method, "key": planned.key, "options": dict(planned.options)}
    if options.json:
        print(json.dumps(plan))
    else:
        print(f"would {what}")
        for name, value in sorted(planned.options.items()):
            print(f"  {name} = {value}")
    return True


def tell(options: Common, artifact: Artifact, store: Store) -> None:
    """Print a finished artifact: its manifest as JSON, or a line about it and its id as the last line."""
    if options.json:
        print(json.dumps(to_json(artifact)))
        return
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in artifact.metrics.items())
    size = f"{artifact.bytes / 1e6:.2f} MB"
    log.info("%s: %s %s, %s%s, in %s", artifact.name, artifact.format, artifact.dtype, size,
             f", {metrics}" if metrics else "", store.folder(artifact))  # fmt: skip
    print(artifact.id)
    sys.stdout.flush()
