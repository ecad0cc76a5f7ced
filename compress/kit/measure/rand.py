"""How well a membrane mask tells cells apart: the ISBI 2012 challenge's own measure.

Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for connectomics", section
"Rand score": foreground-restricted, after border thinning, best over thresholds. Details that the paper leaves open
are those of the challenge's published Fiji script (trainableSegmentation.metrics.RandError).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, NDArray
from skimage.segmentation import watershed

THRESHOLDS = tuple(k / 10 for k in range(1, 10))  # the script's 0 and 1 leave nothing to tell apart


def cells(mask: ArrayLike) -> NDArray[np.int32]:
    """Number the cells of a mask (H, W), whose cells are True: 4-connected components from 1, membranes 0."""
    numbered, _ = scipy.ndimage.label(np.asarray(mask, dtype=bool))
    components: NDArray[np.int32] = numbered.astype(np.int32)
    return components


def thinned(mask: ArrayLike) -> NDArray[np.int32]:
    """Number the cells of a mask (H, W) after they have grown until one pixel of membrane is left between them.

    A watershed floods the membranes from the cells, so that a mask with thick membranes and one with thin ones score
    alike. A mask without a cell is one basin, and so one cell, as it is to the challenge's script.
    """
    components = cells(mask)
    if not components.any():
        return np.ones_like(components)
    flat = np.zeros(components.shape, np.uint8)
    grown: NDArray[np.int32] = watershed(flat, components, connectivity=1, watershed_line=True)
    return grown


def rand_score(found: ArrayLike, truth: ArrayLike) -> float:
    """Foreground-restricted Rand score of a segmentation, 0..1, higher is better.

    The F-score of Rand precision and recall (section "Rand score", alpha 0.5): 2 sum_ij p_ij^2 / (sum_i s_i^2 +
    sum_j t_j^2), p_ij the share of pixels in found segment i and true cell j, s and t its sums. Only pixels of true
    cells count; one of them that found has in no cell is a segment of its own. 1 where the truth has no cell.

    Args:
        found: (H, W), segments numbered from 1, 0 for none.
        truth: (H, W), cells numbered from 1, 0 for membranes.
    """
    s, t = np.asarray(found), np.asarray(truth)
    assert s.shape == t.shape, f"segments {s.shape} against cells {t.shape}"
    inside = t > 0
    s, t = s[inside].astype(np.int64), t[inside].astype(np.int64)
    if t.size == 0:
        return 1.0
    width = int(t.max()) + 1
    joint = np.bincount(s * width + t, minlength=(int(s.max()) + 1) * width).reshape(-1, width).astype(np.float64)
    alone = joint[0].sum()  # as many segments of one pixel
    together = float((joint[1:] ** 2).sum() + alone)
    mine = float((joint[1:].sum(axis=1) ** 2).sum() + alone)
    theirs = float((joint.sum(axis=0) ** 2).sum())
    return 2.0 * together / (mine + theirs)


def rand_curve(mask: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Rand score of a mask at every one of ``THRESHOLDS``: (9,).

    Args:
        mask: (H, W) in 0..1, how surely a pixel is inside a cell; above a threshold it is.
        truth: (H, W), True inside cells. Its cells are its 4-connected components, its membranes as they are drawn.
    """
    probability, true_cells = np.asarray(mask), cells(truth)
    scores: dict[bytes, float] = {}  # a mask of few values is cut alike by many thresholds
    curve = []
    for threshold in THRESHOLDS:
        cut = probability > threshold
        key = np.packbits(cut).tobytes()
        if key not in scores:
            scores[key] = rand_score(thinned(cut), true_cells)
        curve.append(scores[key])
    return np.array(curve, np.float64)


def best_rand(curves: Sequence[ArrayLike]) -> float:
    """Best over thresholds of the mean of all images' curves, as the challenge's script takes it. curves: N of (9,)."""
    return float(np.mean(np.asarray(curves, dtype=np.float64), axis=0).max())
