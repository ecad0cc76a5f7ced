"""`python -m benchmarks.peers`: other quantizers beside ours, on one network and the same photos."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from benchmarks.peers import DEFAULT, PEERS
from compress.core.errors import UsageError
from compress.core.launch import launch
from compress.core.options import Common, positive

app = App(name="benchmarks.peers", help="Measure other quantizers beside ours.", suppress_keyboard_interrupt=False)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `python -m benchmarks.peers`."""

    model: str = ""
    """Id, id prefix, name or .onnx file; the newest float32 artifact when not given."""
    data: tuple[str, ...] = ()
    """Folder of pictures, repeatable."""
    peers: tuple[str, ...] = (",".join(DEFAULT),)
    """Names, with commas between them."""
    seeds: tuple[str, ...] = ("0",)
    """Seeds that calibration photos are drawn with, with commas between them."""
    calibration: int = 128
    """Calibration photos."""
    limit: int | None = None
    """Test photos, spread over the split; all when not given."""
    size: int | None = None
    """Pixels a side; the network's own when not given."""
    threads: int = 0
    """Threads of one inference; 0 leaves the choice to each runtime."""
    repeats: int = 30
    """Timed rounds."""
    python: Annotated[Path | None, Parameter(env_var="PEERS_PYTHON")] = None
    """Python of a venv with benchmarks/peers/requirements.txt; $PEERS_PYTHON when not given."""
    patience: float = 3600.0
    """Seconds one peer may take to quantize."""
    out: Path | None = None
    """JSON file to write."""
    table: Path | None = None
    """Print the table of such a file again, and do nothing else."""


@app.default
def main(*, options: Options = Options()) -> None:
    """Measure other quantizers beside ours."""
    if options.table is None and (options.out is None or not options.data):
        raise UsageError("the peers want --data DIR and --out FILE.json")
    from benchmarks.peers.run import Wish, as_names, read, run
    from benchmarks.peers.table import table

    if options.table is not None:
        result = read(options.table)
    else:
        assert options.out is not None  # checked above
        positive(calibration=options.calibration, limit=options.limit, size=options.size, repeats=options.repeats)
        seeds = as_names(options.seeds)
        if not seeds or not all(seed.isdecimal() for seed in seeds):
            raise UsageError(f"--seeds wants whole numbers with commas between them, found '{','.join(seeds)}'")
        wish = Wish(options.store, options.model, options.data, as_names(options.peers), tuple(map(int, seeds)),
                    options.calibration, options.limit, options.size, options.threads, options.repeats,
                    options.python, options.patience, options.out)  # fmt: skip
        if options.dry_run:
            print("\n".join(f"{name}: {PEERS[name].tells}" for name in wish.peers if name in PEERS))
            return
        result = run(wish)
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    launch(app)
