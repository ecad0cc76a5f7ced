"""CamVid as its authors publish it: 701 frames with class maps in 32 colours, and SegNet's reading of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compress.core.errors import DataError
from compress.kit.data.classes import VOID, read_colors
from compress.kit.data.folders import Pair
from compress.kit.images import Array, list_images

STILLS, LABELED = "701_StillsRaw_full", "LabeledApproved_full"
STEMS = ("0001TP_", "0006R0_", "0016E5_", "Seq05VD_")  # its four film sequences
_MARK = "_L"  # what the name of a class map has behind its photo's

# Brostow et al. 2009, "Semantic object classes in video": the colours of its 32 classes (label_colors.txt), grouped
# into the 11 of Badrinarayanan et al. 2017, "SegNet", section 5.1; "Void" belongs to none
GROUPS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "sky": ((128, 128, 128),),
    # Archway, Bridge, Building, Tunnel, Wall
    "building": ((192, 0, 128), (0, 128, 64), (128, 0, 0), (64, 0, 64), (64, 192, 0)),
    "pole": ((192, 192, 128), (0, 0, 64)),  # Column_Pole, TrafficCone
    "road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    "pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),  # Sidewalk, ParkingBlock, RoadShoulder
    "tree": ((128, 128, 0), (192, 192, 0)),  # Tree, VegetationMisc
    "sign": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),  # SignSymbol, Misc_Text, TrafficLight
    "fence": ((64, 64, 128),),
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    "car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    "pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),  # and Child, CartLuggagePram, Animal
    "bicyclist": ((0, 128, 192), (192, 0, 192)),  # Bicyclist, MotorcycleScooter
}
CAMVID = tuple(GROUPS)
UNLABELLED = (0, 0, 0)
_COLORS = {UNLABELLED: VOID, **{color: k for k, colors in enumerate(GROUPS.values()) for color in colors}}


def has_stills(folder: Path) -> bool:
    """Whether the two published archives lie unpacked in ``folder``."""
    return (folder / STILLS).is_dir() and (folder / LABELED).is_dir()


def find_stills(folder: Path) -> dict[str, list[Pair]]:
    """Pair the frames with their coloured class maps, by SegNet's split.

    Raises:
        DataError: If a frame has no class map or there are no frames.
    """
    parts: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
    for photo in list_images(folder / STILLS):
        target = folder / LABELED / f"{photo.stem}{_MARK}.png"
        if not target.is_file():
            raise DataError(f"'{photo}' has no class map: there is no '{target}'", hint=f"unpack {LABELED}.zip again")
        parts[split_of(photo.stem)].append((photo.stem, photo, target))
    return parts


def split_of(stem: str) -> str:
    """Say which split of SegNet's a frame belongs to: 367 train, 101 val and 233 test in all.

    Test is the sequence at dusk, Seq05VD, and the second half of 0001TP; val a dense stretch of 0016E5, of which the
    frames at whole seconds are of the training split.
    """
    sequence, _, frame = stem.partition("_")
    number = int("".join(filter(str.isdigit, frame)) or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and number > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 and number % 2 else "train"


def read_stills(path: Path) -> Array:
    """Read a coloured class map as (H, W): SegNet's class numbers, 255 for void."""
    return read_colors(path, _COLORS)


def find_segnet(folder: Path) -> dict[str, list[Pair]]:
    """Pair the photos of SegNet's tutorial, ``train`` + ``trainannot`` and so on; no pairs where that is no layout.

    Raises:
        DataError: If a photo has no class map.
    """
    splits = [split for split in ("train", "val", "test") if (folder / f"{split}annot").is_dir()]
    parts: dict[str, list[Pair]] = {}
    for split in splits:
        pairs = [(photo.stem, photo, folder / f"{split}annot" / f"{photo.stem}.png")
                 for photo in list_images(folder / split)]  # fmt: skip
        for _, photo, target in pairs:
            if not target.is_file():
                raise DataError(f"'{photo}' has no class map: there is no '{target}'", hint="copy the folder again")
        parts[split] = pairs
    return parts
