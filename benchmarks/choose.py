"""Which models are measured on which targets, and whether each can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.rows import Entry
from benchmarks.targets import TARGETS
from benchmarks.targets.base import How, Target
from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError, MissingExtraError, UsageError
from compress.core.store import Store
from compress.core.types import Artifact


@dataclass(frozen=True)
class Choice:
    """Models and targets that go together; ``entries`` of them are ready, ``refused`` are not, for a reason."""

    pairs: tuple[tuple[Artifact, Target], ...]
    entries: tuple[Entry, ...] = ()
    refused: tuple[tuple[Entry, str], ...] = ()


def choose_targets(names: Sequence[str], hows: Sequence[How] = (How(),)) -> list[Target]:
    """Return the targets of those names, each once; those in a browser once for each way the user chose.

    Raises:
        UsageError: For a name that is no target.
        MissingExtraError: For one that this machine can't run.
    """
    plain = [TARGETS.get(name) for name in dict.fromkeys(names)]
    targets = [target.configured(how) for target in plain for how in (hows if target.web else hows[:1])]
    for target in targets:
        missing = target.available()
        if missing:
            raise MissingExtraError(f"target '{target.label}' can't run here: {missing}", hint="see `benchmarks list`")
    return targets


def choose_models(store: Store, references: Sequence[str]) -> list[Artifact]:
    """Return the artifacts named, or all of the newest artifact's task but for the rejected ones.

    Raises:
        ArtifactError: If there is none.
        UsageError: If those named are of several tasks.
    """
    if references:
        from compress.jobs.models import pick

        named = {artifact.id: artifact for artifact in (pick(store, reference) for reference in references)}
        tasks = sorted({artifact.task for artifact in named.values()})
        if len(tasks) > 1:
            raise UsageError(f"the models are of several tasks: {', '.join(tasks)}", hint="measure one task at a time")
        return list(named.values())
    artifacts = store.artifacts()
    if not artifacts:
        raise ArtifactError(f"no artifacts in {store.root}", hint="`compress train --teacher u2net_big` makes one")
    return [a for a in artifacts if a.task == artifacts[-1].task and not a.notes.get("rejected")]


def match(artifacts: Sequence[Artifact], targets: Sequence[Target]) -> Choice:
    """Pair every target with the artifacts it runs, and say what is left out.

    Raises:
        UsageError: If nothing is left.
    """
    pairs, left_out = [], []
    for target in targets:
        for artifact in artifacts:
            why = target.can_run(artifact)
            if why:
                left_out.append(f"{artifact.name} ({artifact.id}) on {target.label}: {why}")
            else:
                pairs.append((artifact, target))
    if not pairs:
        raise UsageError(f"nothing to measure: {'; '.join(left_out)}", hint="see `benchmarks list`, `compress list`")
    models = ", ".join(f"{artifact.name} ({artifact.id}) on {target.label}" for artifact, target in pairs)
    log.info("measuring %s", models)
    for line in left_out:
        log.info("left out: %s", line)
    return Choice(tuple(pairs))


def ready(store: Store, choice: Choice, size: int | None) -> Choice:
    """Check every file, make what the targets need (exports) and settle the size each model runs at.

    Raises:
        UsageError: If a model does not run at ``size``.
    """
    from compress.jobs.evaluate import input_at

    specs = [input_at(artifact, size) for artifact, _ in choice.pairs]
    entries, refused = [], []
    for (artifact, target), spec in zip(choice.pairs, specs, strict=True):
        entry = Entry(artifact, target.label, None, spec.height, spec.width, target.name, target.how)
        try:
            entries.append(replace(entry, path=_prepared(store, artifact, target)))
        except CompressError as error:
            refused.append((entry, str(error)))
            log.error("%s (%s) on %s failed: %s", artifact.name, artifact.id, target.label, error)
    return Choice(choice.pairs, tuple(entries), tuple(refused))


def _prepared(store: Store, artifact: Artifact, target: Target) -> Path | None:
    store.verify(artifact)
    return target.prepare(store, artifact)
