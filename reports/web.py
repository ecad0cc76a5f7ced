"""What a model costs in a browser: download, memory, speed, time to the first mask; one table a target and setting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compress.core.types import Artifact
from reports import words
from reports.compare import Line, Setting, settings_of, within
from reports.finding import quotable
from reports.frame import runtime_of
from reports.provenance import Machines
from reports.speeds import with_failed
from reports.tables import Column, Table
from reports.web_tables import NETWORKS, Facts, facts_of, is_stored, longest_state, longest_title, place, table_in

RUNTIMES = {"tfjs": "TF.js", "ort-web": "ONNX Runtime Web"}
_TOGETHER = 4  # models named in one sentence


@dataclass(frozen=True)
class Browser:
    """One target in one setting; ``where``: on what, with what. ``notes``: what a reader must know of the numbers."""

    heading: str
    machine: str
    where: str
    notes: tuple[str, ...]
    table: Table


@dataclass(frozen=True)
class Web:
    """Everything measured in browsers. ``found``: what it comes to; ``key``: what the columns are."""

    found: tuple[str, ...]
    browsers: tuple[Browser, ...]
    key: str


def web_of(frame: pd.DataFrame, lines: Sequence[Line], machines: Machines) -> Web | None:
    """Set out what was measured, or tried, in browsers; None where nothing was.

    Args:
        frame: All rows of the task.
        lines: Its models in order, the teacher first.
        machines: Labels of machines.
    """
    web = frame[frame["web"].astype(bool)]
    if web.empty:
        return None
    settings = [setting for setting in settings_of(web) if setting.browser]
    facts = {setting: facts_of(web, setting) for setting in settings}
    tried = {setting.target for setting in settings}
    first = {setting.target: setting for setting in reversed(settings)}
    browsers = [
        _browser(web, lines, setting, facts[setting], machines, failed=setting in first.values())
        for setting in sorted(settings, key=lambda setting: place(setting.target))
    ]
    lost = dict.fromkeys(t for line in lines for t in line.failures if t not in tried and t in set(web["target"]))
    browsers += [_nothing(lines, target) for target in lost]
    found = (*_soonest(lines, quotable(settings), facts), *_longest_side(lines, facts))
    return Web(found, tuple(browsers), _key(web))


def environment(runtime: Mapping[str, Any]) -> str:
    """Browser, runtime, renderer and what they had, on one line; what is not told is left out."""
    name = str(runtime.get("runtime") or "")
    backend = runtime.get("backend") or runtime.get("provider") or ""
    isolated = runtime.get("cross_origin_isolated")
    parts = [
        f"{str(runtime.get('browser') or '').capitalize()} {runtime.get('browser_version') or ''}".strip(),
        f"{RUNTIMES.get(name, name)} {runtime.get('version') or ''}".strip(),
        f"backend {backend}" if backend else "",
        str(runtime.get("renderer") or "") if backend not in ("wasm", "cpu") else "",
        words.many(int(runtime["threads"]), "thread") if runtime.get("threads") else "",
        ("SIMD" if runtime["simd"] else "no SIMD") if runtime.get("simd") is not None and backend == "wasm" else "",
        "float16 textures" if runtime.get("half") else "",
        "" if isolated is None else "cross-origin isolated" if isolated else "not cross-origin isolated: no threads",
        f"timing adds {1e6 * runtime['overhead']:.1f} µs" if runtime.get("overhead") is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def storage_note(artifacts: Iterable[Artifact], *, half: bool = False) -> str:
    """What a reader must know of TF.js models whose weights are stored in fewer bits; "" where there are none."""
    stored = list(dict.fromkeys(artifact.dtype for artifact in artifacts if is_stored(artifact)))
    if not stored:
        return ""
    are = "is" if len(stored) == 1 else "are"
    then = "is done in float16 textures whatever the storage" if half else "stays float32"
    return f"In TF.js {words.listed(stored)} {are} storage only: the download shrinks, the arithmetic {then}."


def _browser(web: pd.DataFrame, lines: Sequence[Line], setting: Setting, facts: Facts, machines: Machines, *,
             failed: bool) -> Browser:  # fmt: skip
    here = [line for line in lines if setting in line.speeds]
    last = within(web[web["quantity"] == "latency"], setting).iloc[-1]
    runtime = runtime_of(last["details"])
    table = table_in(here, setting, facts, tfjs=runtime.get("runtime") == "tfjs")
    table = with_failed(table, lines, setting.target) if failed else table
    sent = [known.details["runtime_gzip"] for known in facts.values() if known.details.get("runtime_gzip")]
    where = [
        f"{setting.pixels} px" if setting.pixels else "",
        f"batch {setting.batch}" if setting.batch else "",
        setting.cpu + (f", {setting.gpu}" if setting.gpu else ""),
        environment(runtime),
        words.many(max(line.speeds[setting].repeats for line in here), "repeat") if here else "",
        f"the runtime's own files: {words.mb(sent[-1])} MB gzip" if sent else "",
    ]
    stored = [line.artifact for line in here] if runtime.get("runtime") == "tfjs" else []
    notes = (_caveat(setting), storage_note(stored, half=bool(runtime.get("half"))))
    return Browser(
        heading=setting.heading,
        machine=machines.label(last["machine"]),
        where=" · ".join(part for part in where if part),
        notes=tuple(note for note in notes if note),
        table=table,
    )


def _caveat(setting: Setting) -> str:
    caveat = setting.caveat
    return f"{caveat[0].upper()}{caveat[1:]}; its ratios hold between its own lines only." if caveat else ""


def _nothing(lines: Sequence[Line], target: str) -> Browser:
    """A target on which every model failed."""
    table = with_failed(Table((Column("Result"),), ()), lines, target)
    return Browser(target, "", "nothing came through here", (), table)


def _soonest(lines: Sequence[Line], settings: Sequence[Setting], facts: Mapping[Setting, Facts]) -> list[str]:
    """Which model shows a mask first on each network, and when the teacher does there."""
    found, teacher = [], lines[0].artifact
    for network, called in NETWORKS.items():
        quantity = f"first_mask_{network}"
        times = [
            (facts[setting][line.artifact.id, quantity].value, line.artifact.name, setting)
            for setting in settings
            for line in lines
            if not line.rejected and (line.artifact.id, quantity) in facts[setting]
        ]
        if not times:
            continue
        seconds, name, setting = min(times, key=lambda time: time[0])
        theirs = facts[setting].get((teacher.id, quantity))
        beside = f"; {teacher.name} there: {words.three(theirs.value)} s" if theirs and name != teacher.name else ""
        found.append(
            f"First mask over {called} soonest: {name} on {setting.target}, after {words.three(seconds)} s{beside}."
        )
    return found


def _longest_side(lines: Sequence[Line], facts: Mapping[Setting, Facts]) -> list[str]:
    """How many finish a large photo in time; targets that draw in software are told apart."""
    found = []
    for software, called in ((False, ""), (True, " with software rendering")):
        states = {
            f"{line.artifact.name} on {setting.target}": longest_state(known[line.artifact.id, "longest"])
            for setting, known in facts.items()
            for line in lines
            if setting.software == software and (line.artifact.id, "longest") in known
        }
        late = [pair for pair, state in states.items() if state == "outside"]
        held = sum(state != "open" for state in states.values())
        if held:
            tried = (one for known in facts.values() for (_, quantity), one in known.items() if quantity == "longest")
            title = longest_title(tried)
            title = f"{title[0].lower()}{title[1:]}"
            said = f"{held - len(late)} of {held} pairs of model and target{called} finish {title} in time"
            found.append(f"{said}{f'; too late: {words.named(late, _TOGETHER)}' if late else ''}.")
    return found


def _key(web: pd.DataFrame) -> str:
    """What the networks are, as the rows tell it."""
    told = []
    for network, called in NETWORKS.items():
        rows = web[web["quantity"] == f"first_mask_{network}"]
        details = rows["details"].iloc[-1] if len(rows) else {}
        if details.get("bits_per_second"):
            speed = words.three(details["bits_per_second"] / 1e6)
            told.append(f"{called}: {speed} Mbit/s, {words.three(details['round_trip'] * 1e3)} ms round trip")
    networks = f" ({'; '.join(told)})" if told else ""
    return (
        f"First mask: the gzip bytes of model and runtime over the network{networks}, then start, load and first run. "
        "First run: compiles and infers once. With fewer than 100 repeats p99 is close to the slowest one. "
        "A latency is compared only with the teacher's of the same run on the same target; no ratio spans two targets. "
        "Memory: the peak; whole browser: all its processes."
    )
