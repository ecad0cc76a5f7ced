"""What ran this: processor, its vector flags, threads, memory, card, system, package versions, git commit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path

from compress.core.errors import MissingExtraError
from compress.core.types import Machine

# flags that change what a network costs on a CPU
_TELLING = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
    "neon", "asimd", "asimddp", "i8mm", "bf16",
)  # fmt: skip
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy", "lightning-fabric", "pysodmetrics", "tensorflow", "tensorflowjs",
             "openvino")  # fmt: skip

# extra of pyproject.toml -> the package that proves it is there
EXTRAS = {
    "web": "tensorflowjs",
    "inc": "neural_compressor",
    "pt2e": "torchao",
    "prune": "torch_pruning",
    "openvino": "openvino",
}


def require(extra: str) -> None:
    """Fail unless an extra's package can be imported.

    Raises:
        MissingExtraError: With the line that installs it.
    """
    if importlib.util.find_spec(EXTRAS[extra]) is None:
        raise MissingExtraError(
            f"this needs the extra '{extra}' ({EXTRAS[extra]} is not installed)",
            hint=f"pip install -c constraints.txt 'image-compress[{extra}]'",
        )


def _cpu_lines() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_flags() -> tuple[str, ...]:
    """Vector flags of this CPU that change what a network costs, in a fixed order."""
    lines = _cpu_lines()
    have = set(lines.get("flags", lines.get("Features", "")).split())
    return tuple(flag for flag in _TELLING if flag in have)


def cores() -> int:
    """Logical processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


@cache
def _gpu() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide a number, ours among them."""
    found = {}
    for name in ("image-compress", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def this_machine(threads: int = 0) -> Machine:
    """Record this machine. threads: that the work used; 0 stands for every core."""
    lines = _cpu_lines()
    return Machine(
        cpu=lines.get("model name", platform.processor() or platform.machine()),
        flags=cpu_flags(),
        cores=cores(),
        threads=threads or cores(),
        memory_bytes=_memory(),
        gpu=_gpu(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions=dict(versions()),
    )


@cache
def commit() -> str:
    """Git commit of this code, with "+" when the tree was changed since; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees for what it asks next, where its C library can: glibc.

    Training frees and asks for the same large tensors at every step; handing pages back and clearing them again
    costs 8 % of a step of U²-Net Student on a CPU (36,000 page faults a step, 1,500 so).
    """
    import ctypes

    keep, map_from = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        mallopt(keep, 2**31 - 1)
        mallopt(map_from, 2**30)
