"""Flags of `compress distill`, without a framework."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from compress.jobs.options import Fitting


@dataclass(frozen=True, kw_only=True)
class Distilling(Fitting):
    """Who teaches whom, and by which losses."""

    teacher: str
    """Trained teacher: a network's or artifact's name (the newest), an id, an .onnx file (its picture alone), or
    package.module:function, with --weights."""
    student: str = ""
    """Network to train, or an artifact to start from (a pruned one); the teacher's own student when none is given."""
    temperature: Annotated[str, Parameter(name="--T")] = "2"
    """Temperature: both outputs are softened by it before they are compared. 1,2,4 trains one student each."""
    recipe: str = ""
    """Losses: a shipped recipe or a .toml file; the task's own when none is given."""
    taps: tuple[str, ...] = ()
    """Feature maps to compare, student.path=teacher.path, repeatable; else the recipe's choice."""
    init: Literal["own", "teacher"] = "own"
    """What the student starts from: its builder's weights, or the teacher's most important channels (which a high --lr
    unlearns: give 1e-4)."""
    unlabelled: tuple[str, ...] = ()
    """Folder of photos without labels, repeatable: only the teacher's answers count there."""
    patterns: int = 0
    """Augmentations of each picture, repeated every so many epochs so that the teacher's answers can be kept; 0: a new
    one every time."""
    cache: Literal["auto", "on", "off"] = "auto"
    """Whether the teacher's answers are kept on disk; auto: where that is quicker than asking. Needs --patterns."""
    cache_bytes: str = "4000MB"
    """Disk that kept answers may take."""
    perceptor: Path | None = None
    """Weights of a VGG-16 (torchvision's names), for recipes that look through one."""
    weights: Path | None = None
    """Weights of a teacher named package.module:function."""
    task: str = "saliency"
    """What a teacher from elsewhere is for."""
