"""Run a chain of stages from a TOML file, prune, distill, qat, quantize; what the store has is not made again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from compress.core.options import Common
from compress.core.types import Artifact


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress run`."""

    resume: bool = False
    """Continue the stage that was interrupted."""


def run(
    chain: Annotated[Path, Parameter(help="TOML file with a [[stage]] table for each stage.")],
    *,
    options: Options = Options(),
) -> Artifact | None:
    """Run a chain of stages from a TOML file, prune, distill, qat, quantize; what the store has is not made again."""
    from compress.jobs.chain import read_chain, run_chain

    return run_chain(read_chain(chain), options)
