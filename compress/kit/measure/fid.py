"""How alike two sets of pictures are: the Frechet distance of features, by a network that the user brings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.core.console import log
from compress.core.errors import ArtifactError, CompressError, DataError
from compress.kit.images import resize
from compress.kit.measure.metrics import Metric

FEW = 50  # pictures below which the distance says little


class FidExtra:
    """Frechet distance between the features of all predictions and of all targets (Heusel et al. 2017, equation 6).

    Args:
        network: A feature network as .onnx or TorchScript (.pt, such as StyleGAN's inception-2015-12-05.pt): pictures
            (1, 3, H, W), 0..255, to features (1, D).

    Raises:
        ArtifactError: If the file is no such network.
    """

    metric = Metric("fid", "1", "lower", "Frechet distance of features of all predictions and all targets")

    def __init__(self, network: Path) -> None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        self._distance = FrechetInceptionDistance(feature=_Reader(network))
        self._count = 0

    def add(self, prediction: NDArray[np.float32], target: NDArray[np.uint8]) -> None:
        """Take one image: prediction (3, H, W), 0..1; target (H, W, 3), 0..255."""
        picture = np.moveaxis(np.rint(np.clip(prediction, 0, 1) * 255).astype(np.uint8), 0, -1)
        for image, real in ((picture, False), (target, True)):
            self._distance.update(torch.from_numpy(np.moveaxis(image, -1, 0).copy())[None], real=real)
        self._count += 1

    def result(self) -> float:
        """Return the distance.

        Raises:
            DataError: For fewer than two images, which have no covariance.
        """
        if self._count < 2:
            raise DataError(f"FID needs at least 2 images, found {self._count}", hint="evaluate a larger set")
        if self._count < FEW:
            log.warning("FID of %d images says little: the published ones take thousands", self._count)
        return float(self._distance.compute())


class _Reader(nn.Module):
    """Features (1, D), float32, of one picture uint8 (1, 3, H, W), by a network in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise ArtifactError(f"no feature network at '{path}'", hint="check the path given to --fid")
        self._path = path
        self._run = _onnx_features(path) if path.suffix == ".onnx" else _script_features(path)
        # torchmetrics would find it out with a picture of its own
        self.num_features = self(torch.zeros(1, 3, 299, 299, dtype=torch.uint8)).shape[1]

    def forward(self, picture: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                found = self._run(picture)
        except CompressError:
            raise
        # a foreign network fails in any way it likes
        except Exception as error:
            raise self._unfit(" ".join(str(error).split())[-120:]) from error
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 1:
            raise self._unfit(f"found {tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__}")
        return found.flatten(1).float()

    def _unfit(self, why: str) -> ArtifactError:
        return ArtifactError(
            f"'{self._path.name}' does not turn pictures (1, 3, H, W), 0..255, into features (1, D): {why}",
            hint="give a feature network such as inception-2015-12-05.pt",
        )


def _script_features(path: Path) -> Callable[[Tensor], Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torch would rather have another format; published networks are in this one
            network: Any = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    # damaged bytes make the reader fail in any way it likes
    except Exception as error:
        raise ArtifactError(
            f"'{path.name}' is no TorchScript file ({type(error).__name__})",
            hint="give a .onnx or TorchScript .pt file",
        ) from error
    asks = "return_features" in str(network.forward.schema)
    return lambda picture: network(picture, return_features=True) if asks else network(picture.float())


def _onnx_features(path: Path) -> Callable[[Tensor], Any]:
    from compress.kit.ship.runtime import open_session, read_onnx

    read_onnx(path)
    session = open_session(path)
    port = session.get_inputs()[0]
    if len(port.shape) != 4 or port.type not in ("tensor(float)", "tensor(uint8)"):
        raise ArtifactError(
            f"'{path.name}' takes {port.type} {port.shape}, wanted pictures (N, 3, H, W) float or uint8"
        )
    kind = np.float32 if port.type == "tensor(float)" else np.uint8

    def run(picture: Tensor) -> Tensor:
        image = np.moveaxis(picture[0].numpy(), 0, -1)
        sides = [
            side if isinstance(side, int) else have for side, have in zip(port.shape[2:], image.shape, strict=False)
        ]
        fitted = np.moveaxis(resize(np.ascontiguousarray(image), (sides[0], sides[1])), -1, 0)[None].astype(kind)
        return torch.from_numpy(np.asarray(session.run(None, {port.name: fitted})[0]))

    return run
