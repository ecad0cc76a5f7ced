"""Distil by torchdistill's own KDLoss, the rest as `compress distill`: `python -m benchmarks.results.peer --teacher T`.

torchdistill 1.1.5 is no dependency: `pip install --no-deps torchdistill==1.1.5`. Its losses import without
torchvision, which nothing here installs. It has no channel-wise distillation: that competitor is a recipe of ours.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import App, Parameter

from compress.core.errors import MissingExtraError, UsageError
from compress.core.launch import launch
from compress.core.types import Artifact
from compress.jobs.distilloptions import Distilling

VERSION = "1.1.5"
MASKS = {"saliency": 1.0, "membrane": 2.0}  # factor that makes a raw output the logit of its mask
app = App(name="benchmarks.results.peer", help="Distil by torchdistill.", default_parameter=Parameter(negative=()))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Distilling):
    """Flags of `compress distill`, of which the recipe's are not used."""

    alpha: float = 0.5
    """Weight of the labels' cross-entropy; the rest is the teacher's. torchdistill's published ImageNet setting."""


@app.default
def run(*own: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], options: Options) -> Artifact | None:
    """Distil by torchdistill's KDLoss."""
    from compress.core.store import Store
    from compress.jobs.desk import found, planned_only, stage, tell
    from compress.jobs.distill import read_temperatures
    from compress.jobs.fit import fit
    from compress.jobs.learn import pick_learner, pick_teacher
    from compress.jobs.plan import settle
    from compress.jobs.teachers import open_teacher
    from compress.kit.graph import fold_batch_norm
    from compress.kit.lesson import Lesson
    from compress.tasks import TASKS

    T = read_temperatures(options.temperature)[0]
    store = Store(options.store)
    teacher = pick_teacher(store, options)
    learner = pick_learner(store, teacher, options, own)
    task = TASKS.get(teacher.task)
    data = task.open(options.data, "train", seed=options.seed)
    plan = settle(options, learner.network, len(data))
    settings = {**asdict(plan), **learner.settings, "student": learner.network.name,
                "teacher": teacher.network or teacher.name, "temperature": T,
                "recipe": {"torchdistill": VERSION, "loss": "KDLoss", "alpha": options.alpha}}  # fmt: skip
    planned = stage("torchdistill", options, data=data.fingerprint, parent=learner.parent, teacher=teacher,
                    resolved=settings)  # fmt: skip
    if planned_only(options, planned, f"distill {teacher.id} into {learner.network.name} by torchdistill"):
        return None
    artifact = found(store, planned, options)
    if artifact is None:
        kd_loss(1, T, options.alpha)  # that it is absent shows before the data is read

        def lesson(fabric: Any, _student: Any) -> Lesson:
            import torch

            module = open_teacher(store, teacher, learner.start.input)
            frozen = fabric.to_device(fold_batch_norm(module).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
            criterion: dict[int, Callable[..., Any]] = {}

            def loss(outputs: Any, batch: Any) -> dict[str, Any]:
                with torch.no_grad(), fabric.autocast():
                    answers = frozen(batch["image"].contiguous(memory_format=torch.channels_last))
                mine, theirs = task.levels(outputs), task.levels(answers)
                count = min(len(mine), len(theirs))
                if count not in criterion:
                    criterion[count] = kd_loss(count, T, options.alpha)
                return {"loss": kd(criterion[count], task.name, mine[:count], theirs[:count], batch["target"])}

            return Lesson(loss)

        artifact = fit(store, planned, options, plan, learner.network, task, data, lesson, options.name,
                       learner.options, start=learner.start)  # fmt: skip
    if artifact is not None:
        tell(options, artifact, store)
    return artifact


def kd_loss(count: int, temperature: float, alpha: float) -> Callable[..., Any]:
    """Return torchdistill's WeightedSumLoss of one KDLoss for each of ``count`` outputs, made from a configuration.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        importlib.import_module("torchdistill.losses")  # registers them
        registry = importlib.import_module("torchdistill.losses.registry")
    except ImportError as error:
        raise MissingExtraError("torchdistill is not installed",
                                hint=f"pip install --no-deps torchdistill=={VERSION}") from error  # fmt: skip
    places = {f"{side}_module_{part}": value for side in ("student", "teacher")
              for part, value in (("path", "{}"), ("io", "output"))}  # fmt: skip
    terms = {
        f"level{number}": {
            "criterion": {
                "key": "KDLoss",
                "kwargs": {
                    **{key: value.format(f"level{number}") for key, value in places.items()},
                    "temperature": temperature,
                    "alpha": alpha,
                    "reduction": "batchmean",
                    "ignore_index": 255,
                },
            },
            "weight": 1.0 / count,
        }
        for number in range(count)
    }
    made: Callable[..., Any] = registry.get_high_level_loss({"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}})
    return made


def kd(criterion: Callable[..., Any], task: str, student: Sequence[Any], teacher: Sequence[Any], target: Any) -> Any:
    """Give torchdistill's loss every pixel as a sample of its own, so that "batchmean" is a mean over pixels.

    Its KDLoss is of classes: a mask's logit z becomes the two logits (0, z), whose softmax is (1 - p, p). Labels are
    cut at one half, each brought to the size of the output as class numbers are, by the nearest.

    student, teacher: raw outputs, each (N, C, h, w), the teacher's brought to the student's sides; target (N, 1, H, W).
    """
    from torch.nn import functional as F

    from compress.kit.nets.blocks import resize_like

    if task not in (*MASKS, "segmentation"):
        raise UsageError(f"KDLoss is of classes, the outputs of {task} are none", hint="take masks or classes")
    mine, theirs, labels = {}, {}, []
    for number, (one, other) in enumerate(zip(student, teacher, strict=True)):
        near = F.interpolate(target.float(), one.shape[2:], mode="nearest")
        mine[f"level{number}"] = {"output": _samples(one.float(), task)}
        theirs[f"level{number}"] = {"output": _samples(resize_like(other.float(), one), task)}
        labels.append((near > 0.5 if task in MASKS else near).long().flatten())
    assert all(len(each) == len(labels[0]) for each in labels), "levels of several sides"
    return criterion({"student": mine, "teacher": theirs}, {}, labels[0])


def _samples(output: Any, task: str) -> Any:
    """(N, C, H, W) to the class logits of each pixel, (N * H * W, C), two classes for a mask."""
    import torch

    if task in MASKS:
        logit = MASKS[task] * output
        output = torch.cat([torch.zeros_like(logit), logit], 1)
    return output.movedim(1, -1).flatten(0, 2)


if __name__ == "__main__":
    launch(app, lenient=("",))
