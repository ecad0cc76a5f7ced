"""The colorizer of S7: encoder, fusion with Inception-ResNet-v2's outputs or a small network's, decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import network
from compress.core.store import sha256_of
from compress.kit.data.sets import Dataset
from compress.kit.images import letterbox
from compress.kit.lesson import Batch, Lesson, Subject
from compress.kit.nets.colorizer import Colorizer, Table, build_colorizer
from compress.kit.nets.inception import GreyEye, embed, fill

TABLE = Table(
    encoder=((64, 2), (128, 1), (128, 2), (256, 1), (256, 2), (512, 1), (512, 1), (256, 1)),
    fusion=256,
    decoder=(128, 64, 64, 32),
    features=(32, 64, 128, 256, 256),
)
UNLIKE = 0.3  # relative error of an embedding; half precision and photos packed smaller stay below, other weights don't
TAPS = ("encoder", "features", "fusion", "decoder.at4")


def teach(task: Subject, data: Dataset, *, inception: Path | None = None) -> Lesson:
    """Learn ab from the photos' own colours, with the vector of a feature network that learns too or is given.

    Args:
        task: The task, whose loss it is.
        data: What it learns from; embeddings that it holds are used instead of running Inception.
        inception: Weights of Inception-ResNet-v2 in timm's key names, for --features inception.

    Raises:
        ArtifactError: If there is no such file.
    """
    if inception is not None and not inception.is_file():
        raise ArtifactError(f"no weights file '{inception}'", hint="check the path given to --inception")

    def prepare(net: nn.Module) -> None:
        assert isinstance(net, Colorizer), type(net).__name__
        eye = net.features
        if isinstance(eye, GreyEye) and inception is not None:
            fill(eye, inception)
            _check_embeddings(eye, data)
        elif isinstance(eye, GreyEye):
            raise UsageError(
                "features of Inception need its weights", hint="give --inception FILE, or --features small"
            )
        elif inception is not None:
            raise UsageError("--inception was given, but the features are small", hint="add --features inception")

    settings: Mapping[str, Any] = {"inception": sha256_of(inception) if inception else ""}
    return Lesson(task.loss, feed=_photo_and_embedding, prepare=prepare, settings=settings)


def _check_embeddings(eye: GreyEye, data: Dataset) -> None:
    """Compare what the data brings for its first photo with what the eye says of it.

    Raises:
        UsageError: If they are of another length, or so different that other weights must have made them.
    """
    made = getattr(data, "embedding", None)
    if made is None:
        return
    stored = torch.from_numpy(data.vectors(0)["embedding"])
    if len(stored) != eye.outputs:
        raise UsageError(
            f"the data's embeddings have {len(stored)} numbers a photo, the network takes {eye.outputs}",
            hint=f"give --outputs {len(stored)} and its weights, or pack the photos again",
        )
    frame = torch.from_numpy(letterbox(data.original(0)["image"], (made["size"], made["size"]))[0])
    seen = embed(eye, frame.permute(2, 0, 1)[None])[0]
    error = float((seen - stored).norm() / stored.norm().clamp(min=1e-12))
    if not error < UNLIKE:
        raise UsageError(
            f"the data's embeddings were made by other weights: that of '{data.names[0]}' is off by {error:.0%}",
            hint="give --inception the file they were packed with, or pack the photos again",
        )


def _photo_and_embedding(batch: Batch) -> tuple[torch.Tensor, ...]:
    return (batch["image"], batch["embedding"]) if "embedding" in batch else (batch["image"],)


@network(
    task="color",
    size=224,
    stride=1,
    student="colorizer_small",
    taps=TAPS,
    parameters=7_809_963,
    branches=("features", "encoder"),
    teach=teach,
)
def build(
    width: int | None = None, features: Literal["small", "inception"] = "small", outputs: int = 1001
) -> Colorizer:
    """Build it: image (N, 1, H, W) to raw ab (N, 2, H, W), features at 1/4 of the sides and fused ones at 1/8.

    Args:
        width: Cap of every channel count, None for none.
        features: What says what the photo shows: a small network that is trained jointly, or a frozen
            Inception-ResNet-v2.
        outputs: Numbers it says: 1001 or 1000 of Inception's weights.
    """
    return build_colorizer(TABLE, features, outputs, width=width)
