"""Which browser measures, and how long it may take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BrowserOptions:
    """Options of every browser target.

    browser: chromium, firefox or the path of a program; empty for the first one found. headed: show the window.
    patience: seconds that one call may take before the browser is ended and the model counts as failed.
    """

    browser: str = ""
    headed: bool = False
    patience: float = 300.0
