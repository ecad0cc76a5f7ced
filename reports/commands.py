"""What `reports build` takes and does; nothing heavy is imported before there is something to build."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from compress.core.console import log
from compress.core.errors import UsageError
from compress.core.options import Common
from compress.core.store import Store
from compress.core.types import Artifact, Row


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Build(Common):
    """Flags of `reports build`."""

    out: Path | None = None
    """Folder of the report; <store>/report when none is given."""
    title: str = "Compression report"
    """Title of the page."""
    model: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Ids or names of the models to show, beside their teacher; all when none is given."""


_DEFAULT = Build()


def build(*, options: Build = _DEFAULT) -> None:
    """Build the report: HTML, Markdown, CSV and PNG.

    Raises:
        UsageError: If nothing was measured yet.
    """
    store = Store(options.store)
    artifacts, rows = store.artifacts(), store.rows()
    chosen = frozenset(store.get(reference).id for reference in options.model)
    _check(store, artifacts, rows, chosen)
    out = options.out or options.store / "report"
    if options.dry_run:
        _plan(options, out, len(artifacts), len(rows))
        return
    from reports.render import write_report

    written = write_report(store, artifacts, rows, out, title=options.title, chosen=chosen)
    if options.json:
        paths = {"html": str(written.html), "markdown": str(written.markdown), "csv": str(written.csv)}
        print(json.dumps({**paths, "png": [str(path) for path in written.png]}))
    else:
        print(written.html)


def _check(store: Store, artifacts: list[Artifact], rows: list[Row], chosen: frozenset[str]) -> None:
    if not artifacts:
        raise UsageError(
            f"no artifacts in {store.root}, a report needs measured ones",
            hint="make one with `compress train --teacher u2net_big`, then `benchmarks run --target cpu`",
        )
    known = {artifact.id for artifact in artifacts}
    measured = [row for row in rows if row.artifact in (chosen or known)]
    if not measured:
        whose = f"of {', '.join(sorted(chosen))} " if chosen else ""
        raise UsageError(
            f"nothing {whose}was measured in {store.root}: {len(artifacts)} artifacts, 0 rows of them in rows.jsonl",
            hint="measure with `benchmarks run --target cpu`, then `reports build` again",
        )
    lost = sum(row.artifact not in known for row in rows)
    if lost:
        log.warning("%d rows belong to artifacts that are no longer in %s; left out", lost, store.root)


def _plan(options: Build, out: Path, artifacts: int, rows: int) -> None:
    if options.json:
        print(json.dumps({"plan": "build a report", "out": str(out), "artifacts": artifacts, "rows": rows}))
    else:
        print(f"would build a report of {artifacts} artifacts and {rows} rows in {out}")
