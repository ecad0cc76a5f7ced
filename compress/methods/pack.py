"""Pack photos into sequential shards (Apache Arrow): of files, folders or a list of addresses, with embeddings."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from compress.core.console import log, progress
from compress.core.errors import ArtifactError, DataError, UsageError
from compress.core.options import Common, exclusive, positive
from compress.core.store import Store, sha256_of

if TYPE_CHECKING:
    from compress.kit.data.packing import Embedder
    from compress.kit.data.sources import Source
    from compress.kit.nets.inception import GreyEye


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """Flags of `compress pack`."""

    out: Path = Path("shards")
    """Folder for the shards; packing that was interrupted goes on there."""
    size: int | None = None
    """Pixels of the shorter side, as JPEG; every file's own bytes when not given."""
    downloads: Path | None = None
    """Folder for the photos of a list of addresses; OUT-downloads when not given."""
    connections: int = 16
    """Addresses that are fetched at once."""
    inception: Path | None = None
    """Weights of Inception-ResNet-v2 in timm's key names: what it says of each photo is stored beside it."""
    embeddings: str = ""
    """Id or name of a colorizer whose Inception-ResNet-v2 to take instead."""
    training_size: int | None = None
    """Pixels a side of the colorizer's input that embeddings are computed from; the model's own, or 224."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where embeddings are computed."""


def run(
    photos: Annotated[list[Path], Parameter(help="Photos, folders of them, or .txt files with one address a line.")],
    *,
    options: Options = Options(),
) -> dict[str, Any] | None:
    """Pack photos into sequential shards (Apache Arrow): of files, folders or a list of addresses, with embeddings."""
    from compress.kit.data.packing import Recipe, pack

    positive(size=options.size, connections=options.connections, training_size=options.training_size)
    exclusive(inception=options.inception, embeddings=options.embeddings or None)
    if options.training_size and not (options.inception or options.embeddings):
        raise UsageError("--training-size is of embeddings, and none were asked for", hint="add --inception FILE")
    sources, addresses = _sources(photos, options)
    recipe = Recipe(options.size, None if options.dry_run else _embedder(options))
    if options.dry_run:
        listed = f" and {addresses} addresses" if addresses else ""
        print(f"would pack {len(sources)} photos{listed} into {options.out}")
        return None
    given = [str(path.resolve()) for path in photos]
    with progress(f"pack {options.out}", len(sources)) as advance:
        manifest = pack(sources, options.out, recipe, given=given, advance=advance)
    told: dict[str, Any] = {
        "out": str(options.out),
        "photos": sum(len(shard.names) for shard in manifest.shards),
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "left_out": len(manifest.left_out),
        "embedding": manifest.embedding,
    }
    if told["left_out"]:
        log.warning("%d of %d photos can't be read and were left out", told["left_out"], len(sources))
    log.info("%d photos in %d shards, %.1f MB", told["photos"], told["shards"], told["bytes"] / 1e6)
    print(json.dumps(told) if options.json else options.out)
    return told


def _sources(photos: list[Path], options: Options) -> tuple[list["Source"], int]:
    """Find the photos, fetching what is listed by address; a dry run only counts addresses."""
    from compress.kit.data.sources import find_sources
    from compress.kit.data.urls import Patience, fetch, read_urls

    for path in photos:
        if not path.exists():
            raise DataError(f"no photo {path}", hint="give photos, folders of them, or .txt files of addresses")
    lists = [path for path in photos if path.suffix.lower() == ".txt" and path.is_file()]
    folders = [path for path in photos if path.is_dir()]
    files = [path for path in photos if path not in lists and path not in folders]
    urls = list(dict.fromkeys(url for path in lists for url in read_urls(path)))
    if options.dry_run:
        return find_sources(folders, files), len(urls)
    here = find_sources(folders, files)  # a wrong folder shows before hours of fetching
    if not urls:
        return here, 0
    where = options.downloads or options.out.with_name(f"{options.out.name}-downloads")
    with progress("fetch", len(urls)) as advance:
        fetched = fetch(urls, where, advance, Patience(workers=options.connections))
    return find_sources(folders, [*files, *fetched]), len(urls)


def _embedder(options: Options) -> "Embedder | None":
    """What makes the embeddings asked for: once for each whole photo, as a colorizer would at its training size."""
    from compress.kit.data.packing import Embedder
    from compress.kit.images import letterbox

    if not (options.inception or options.embeddings):
        return None
    import torch

    from compress.kit.nets.inception import embed

    eye, sha256, size = _eye(options)
    wanted = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    eye.to(wanted)
    settings = {"network": "inception_resnet_v2", "sha256": sha256, "length": eye.outputs, "size": size}
    return Embedder(
        settings,
        lambda photo: letterbox(photo, (size, size))[0],
        lambda frames: embed(eye, torch.from_numpy(frames).to(wanted)).cpu().numpy(),
    )


def _eye(options: Options) -> tuple["GreyEye", str, int]:
    """The network, the sha256 of the file its weights come from, and the size it is shown photos at."""
    from compress.kit.nets.inception import GreyEye, load_inception

    if options.inception:
        if not options.inception.is_file():
            raise ArtifactError(f"no weights file '{options.inception}'", hint="check the path given to --inception")
        return load_inception(options.inception), sha256_of(options.inception), options.training_size or 224
    from compress.jobs.models import load_module, pick

    store = Store(options.store)
    artifact = pick(store, options.embeddings)
    eye = getattr(load_module(store, artifact), "features", None)
    if not isinstance(eye, GreyEye):
        raise UsageError(
            f"{artifact.name} has no frozen Inception-ResNet-v2: what it sees in a photo changes while it is trained",
            hint="name a colorizer of --features inception, or leave --embeddings out",
        )
    # the file those weights came from, so that both ways to name them mark the shards alike
    weights = artifact.options.get("lesson", {}).get("inception") or artifact.sha256
    return eye, weights, options.training_size or artifact.input.height
