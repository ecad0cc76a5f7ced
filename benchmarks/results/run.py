"""Goes through the plan: finds what the store has by its key, makes what it lacks, and says what waits for what."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.results.plan import TEACHER, Family, Job, jobs
from benchmarks.results.words import Setting, missing, words
from compress.core.console import log
from compress.core.errors import CompressError, UsageError
from compress.core.store import Store
from compress.core.types import Artifact

State = Literal["made", "to do", "waits", "failed", "no data"]
Play = Callable[[Sequence[str]], None]  # runs the words of a command to its end; raises CompressError if it fails


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its artifact, or why there is none."""

    job: Job
    state: State
    artifact: Artifact | None = None
    why: str = ""

    @property
    def minutes(self) -> float:
        """That it took, or will take on two idle cores."""
        return self.artifact.seconds / 60 if self.artifact else self.job.stage.estimate


def in_process(program: Sequence[str]) -> str:
    """Run a command in this process and return what it prints.

    Raises:
        CompressError: If it fails in a way a user can mend.
    """
    from cyclopts import CycloptsError

    if program[0] == "torchdistill":
        from benchmarks.results.peer import app

        arguments = program[1:]
    else:
        from compress.cli import app

        arguments = program
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise UsageError(f"compress {program[0]}: {' '.join(str(error).split()).rstrip('.')}") from error
    return printed.getvalue()


def run_here(program: Sequence[str]) -> None:
    """Run a command in this process, for small networks: what it prints is dropped.

    Raises:
        CompressError: If it fails in a way a user can mend.
    """
    in_process(program)


def in_own_process(program: Sequence[str]) -> None:
    """Run a command in a process of its own, so that what it leaves behind ends with it.

    Raises:
        CompressError: If it fails; what it said is on stderr.
    """
    torchdistill = program[0] == "torchdistill"
    module, arguments = ("benchmarks.results.peer", program[1:]) if torchdistill else ("compress", program)
    code = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.DEVNULL, check=False).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise CompressError(f"exit code {code}", hint=f"try again: python -m {module} {' '.join(arguments)}")


class Desk:
    """One pass through the plan.

    Args:
        setting: Where everything lies.
        seeds: How many.
        given: Artifacts that teach a family instead of the plan's own teacher: a reference by the family's name.
        play: What makes a network; None: nothing is made.
    """

    def __init__(self, setting: Setting, seeds: int, given: Mapping[str, str], play: Play | None) -> None:
        self.setting, self.seeds, self.given, self.play = setting, seeds, given, play
        self.store = Store(setting.store)

    def go(self, family: Family) -> Iterator[Outcome]:
        """Yield what becomes of each job, in order; a job that fails holds up those that need it alone."""
        gone = missing(family, self.setting)
        outcomes: list[Outcome] = []
        for job in jobs(family, self.seeds):
            if job.stage.sweep and job.seed == 0 and job.temperature is None:
                continue  # it is one of those that were tried
            if gone:
                outcome = Outcome(job, "no data", why=f"no folder {', '.join(gone)}")
            else:
                outcome = self._one(job, family, outcomes)
            outcomes.append(outcome)
            yield outcome

    def _one(self, job: Job, family: Family, before: Sequence[Outcome]) -> Outcome:
        if job.stage.name == TEACHER and family.name in self.given:
            return Outcome(job, "made", self.store.get(self.given[family.name]))
        needs = {name: found(before, name, job.seed) for name in job.stage.needs}
        lacking = sorted(name for name, artifact in needs.items() if artifact is None)
        if job.stage.sweep and job.temperature is None:
            T = best_temperature(before, job.stage.name)
            lacking += [] if T is not None else [f"the sweep of {job.stage.name}"]
            job = replace(job, temperature=T)
        if lacking:
            return Outcome(job, "waits", why=f"waits for {', '.join(lacking)}")
        made = {name: artifact for name, artifact in needs.items() if artifact is not None}
        program = words(job, family, self.setting, made, job.temperature)
        try:
            artifact = self._find(program)
            if artifact is None and self.play is not None:
                log.info("%s: %s", job.name, " ".join(program))
                self.play(program)
                artifact = self._find(program)
        except CompressError as error:
            log.warning("%s failed: %s", job.name, error)
            return Outcome(job, "failed", why=str(error))
        return Outcome(job, "made", artifact) if artifact else Outcome(job, "to do")

    def _find(self, program: Sequence[str]) -> Artifact | None:
        """Return the finished artifact of a command, which the command itself names the key of."""
        with _hushed():
            told = in_process([*program, "--dry-run", "--json"])
        key: Any = json.loads(told.strip().splitlines()[-1])["key"]
        return self.store.find(key)


def found(outcomes: Sequence[Outcome], stage: str, seed: int) -> Artifact | None:
    """What a stage made with a seed, or with the only one it has; of a sweep the best."""
    of_it = [outcome for outcome in outcomes if outcome.job.stage.name == stage and outcome.artifact]
    if not of_it:
        return None
    job = of_it[0].job
    seed = 0 if job.stage.once else seed
    best = best_temperature(outcomes, stage) if job.stage.sweep else None
    fitting = [o.artifact for o in of_it if o.job.seed == seed and (not job.stage.sweep or o.job.temperature == best)]
    return fitting[0] if fitting else None


def best_temperature(outcomes: Sequence[Outcome], stage: str) -> float | None:
    """The temperature of a sweep with the least loss on the validation split; None until all of it is there."""
    tried = [o for o in outcomes if o.job.stage.name == stage and o.job.seed == 0 and o.job.temperature is not None]
    if not tried or len(tried) < len(tried[0].job.stage.sweep) or not all(o.artifact for o in tried):
        return None
    losses = {o.job.temperature: o.artifact.metrics["loss"] for o in tried if o.artifact}
    return min(losses, key=lambda T: losses[T])


@contextmanager
def _hushed() -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
