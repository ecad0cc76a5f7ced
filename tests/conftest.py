import os
import signal
from pathlib import Path

import pytest

# as the command lines do: see compress/core/launch.py
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# a shell starts background jobs with Ctrl-C ignored, which the commands that are tested would inherit
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data():
    """Real photos for development; they are not beside a user's checkout."""
    folder = Path(os.environ.get("COMPRESS_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared development photos are not here")
    return folder
