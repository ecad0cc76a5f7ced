"""The plan of a training run: options and preset settled into what decides the result."""

from __future__ import annotations

from dataclasses import dataclass

from compress.core.console import log
from compress.core.errors import UsageError
from compress.core.networks import Network
from compress.core.options import exclusive, positive
from compress.jobs.options import Fitting
from compress.kit.loop import best_precision, processes


@dataclass(frozen=True)
class Plan:
    """A training run with nothing left open: what decides its result."""

    size: int
    steps: int
    batch: int
    lr: float
    schedule: str
    precision: str
    ema: float
    augment: bool


def settle(options: Fitting, network: Network, length: int, ema: float = 0.0) -> Plan:
    """Fill what the user left open from the preset. length: pictures in the training split; ema: the lesson's.

    Raises:
        UsageError: For a value that can't be.
    """
    exclusive(steps=options.steps, epochs=options.epochs)
    positive(size=options.size, steps=options.steps, epochs=options.epochs, batch=options.batch, lr=options.lr)
    positive(devices=options.devices, checkpoint_every=options.checkpoint_every)
    thesis = options.preset == "thesis"
    size = options.size or (network.size if thesis else 64)
    if size % network.stride:
        raise UsageError(f"--size {size} does not fit {network.name}", hint=f"give a multiple of {network.stride}")
    batch = options.batch or 8
    if batch % processes(options.devices):
        raise UsageError(
            f"--batch {batch} can't be split over {processes(options.devices)} devices", hint="give a multiple"
        )
    epochs = options.epochs or (300 if thesis and options.steps is None else None)
    plan = Plan(
        size=size,
        steps=options.steps or (epochs * -(-length // batch) if epochs else 300),
        batch=batch,
        lr=options.lr or (1e-4 if thesis else 1e-3),
        schedule=options.schedule or ("step" if thesis else "cosine"),
        precision=best_precision(options.precision, options.device),
        ema=ema if options.ema is None else options.ema,
        augment=options.augment,
    )
    log.info("plan (%s): %d steps of %d pictures at %d px, rate %g %s, %s",
             options.preset, plan.steps, batch, size, plan.lr, plan.schedule, plan.precision)  # fmt: skip
    return plan
