"""The same command line as `benchmarks`, for `python -m benchmarks`."""

from benchmarks.cli import main

main()
