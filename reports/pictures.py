"""The strip: sample photos with every model's pictures side by side, as small JPEGs and as one PNG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from compress.core.store import Store
from reports.compare import Line

SIDES = (200, 160, 128, 96, 64)  # longest side of a thumbnail in pixels; the first with which all fit is taken
BUDGET = 2_500_000  # bytes of all thumbnails of a strip
_FIRST = ("mask", "cutout")
_NAME = re.compile(r"(\d+)\.(\w+)\.png")
_CHECK, _LIGHT, _DARK = 8, 255, 222  # squares behind what is transparent: pixels, grey levels


@dataclass(frozen=True)
class Shot:
    """One thumbnail: JPEG bytes and what it shows."""

    jpeg: bytes
    width: int
    height: int
    alt: str

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()


@dataclass(frozen=True)
class Photo:
    """One sample photo, and for each kind of picture the truth's and every model's; None where there is none."""

    number: int
    photo: Shot | None
    kinds: tuple[tuple[str, tuple[Shot | None, ...]], ...]


@dataclass(frozen=True)
class Strip:
    """Photos by columns: the truth first, then the models."""

    columns: tuple[str, ...]
    photos: tuple[Photo, ...]


def strip_of(store: Store, data: str, lines: Sequence[Line]) -> Strip | None:
    """Gather the pictures kept of one data set; None when no model has any."""
    folders = {"truth": store.pictures(data, "truth")}
    folders |= {line.artifact.id: store.pictures(data, line.artifact.id) for line in lines}
    kept = {who: _kept(folder) for who, folder in folders.items()}
    shown = [line for line in lines if kept[line.artifact.id]]
    if not data or not shown:
        return None
    columns = {"truth": "truth"} | {line.artifact.id: line.artifact.name for line in shown}
    for side in SIDES:
        strip = _strip(kept, columns, side)
        if sum(len(shot.jpeg) for shot in _shots(strip)) <= BUDGET:
            break
    return strip


def _kept(folder: Path) -> dict[tuple[int, str], Path]:
    found = ((path, _NAME.fullmatch(path.name)) for path in (folder.glob("*.png") if folder.is_dir() else ()))
    return {(int(match[1]), match[2]): path for path, match in found if match}


def _strip(kept: dict[str, dict[tuple[int, str], Path]], columns: dict[str, str], side: int) -> Strip:
    known = {key for who in columns for key in kept[who]}
    others = sorted({kind for _, kind in known} - {"photo", *_FIRST})
    kinds = [*(kind for kind in _FIRST if any(kind == other for _, other in known)), *others]
    photos = [_photo(kept, columns, number, kinds, side) for number in sorted({number for number, _ in known})]
    return Strip(tuple(columns.values()), tuple(photos))


def _photo(kept: dict[str, dict[tuple[int, str], Path]], columns: dict[str, str], number: int, kinds: Sequence[str],
           side: int) -> Photo:  # fmt: skip
    def shot(who: str, kind: str, alt: str) -> Shot | None:
        path = kept[who].get((number, kind))
        return None if path is None else _shot(path, side, alt)

    rows = tuple(
        (kind, tuple(shot(who, kind, f"{kind} by {name}, photo {number + 1}") for who, name in columns.items()))
        for kind in kinds
    )
    return Photo(number + 1, shot("truth", "photo", f"photo {number + 1}"), rows)


def _shot(path: Path, side: int, alt: str) -> Shot:
    with Image.open(path) as picture:
        has_alpha = picture.mode in ("RGBA", "LA", "PA")
        small = picture.convert("RGBA" if has_alpha else "L" if picture.mode in ("L", "1") else "RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    flat = _on_squares(small) if has_alpha else small
    stream = io.BytesIO()
    flat.save(stream, format="JPEG", quality=80, optimize=True)
    return Shot(stream.getvalue(), *flat.size, alt)


def _on_squares(picture: Image.Image) -> Image.Image:
    tile = Image.new("L", (2 * _CHECK, 2 * _CHECK), _LIGHT)
    for corner in ((0, 0), (_CHECK, _CHECK)):
        tile.paste(_DARK, (*corner, corner[0] + _CHECK, corner[1] + _CHECK))
    ground = Image.new("RGB", picture.size)
    for x in range(0, picture.width, 2 * _CHECK):
        for y in range(0, picture.height, 2 * _CHECK):
            ground.paste(tile, (x, y))
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def _shots(strip: Strip) -> list[Shot]:
    cells = [shot for photo in strip.photos for _, row in photo.kinds for shot in row]
    return [shot for shot in (*cells, *(photo.photo for photo in strip.photos)) if shot is not None]


def draw(strip: Strip, path: Path) -> None:
    """Write the strip as one PNG: a line for each photo and kind, the columns named above."""
    from matplotlib import font_manager

    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    side = max(shot.width for shot in _shots(strip))
    gap, head = 8, 30
    lines = [(photo.photo if position == 0 else None, *row) for photo in strip.photos
             for position, (_, row) in enumerate(photo.kinds)]  # fmt: skip
    tops = list(accumulate((max(s.height for s in line if s is not None) + gap for line in lines), initial=head))
    sheet = Image.new("RGB", ((len(strip.columns) + 1) * (side + gap) + gap, tops[-1]), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(("photo", *strip.columns)):
        pen.text((gap + column * (side + gap), 8), _fitting(name, font, side), fill="#1d1c1a", font=font)
    for top, line in zip(tops, lines, strict=False):
        for column, shot in enumerate(line):
            if shot is not None:
                sheet.paste(Image.open(io.BytesIO(shot.jpeg)).convert("RGB"), (gap + column * (side + gap), top))
    sheet.save(path, format="PNG")


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"
