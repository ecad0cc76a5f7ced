"""Membrane data from TIFF stacks and folders: splits, pages, and what is refused."""

import numpy as np
import PIL.Image
import pytest
import tifffile

from compress.core.errors import DataError, UsageError
from compress.kit.data.stacks import Stack, open_membranes, page_count, read_page

SPLITS = ("train", "val", "test")


def pages(count=12, height=20, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width), dtype=np.uint8)


def masks(count=12, height=20, width=24):
    return (pages(count, height, width, seed=1) > 60).astype(np.uint8) * 255


def publish(folder, *, test=True, test_labels=True, count=12):
    """The challenge's files."""
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / "train-volume.tif", pages(count))
    tifffile.imwrite(folder / "train-labels.tif", masks(count))
    if test:
        tifffile.imwrite(folder / "test-volume.tif", pages(5, seed=2))
    if test and test_labels:
        tifffile.imwrite(folder / "test-labels.tif", masks(5))
    return folder


def save_folder(root, names, size=(16, 12)):
    for kind, seed in (("images", 0), ("labels", 1)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            values = np.random.default_rng(seed).integers(0, 2, size[::-1], dtype=np.uint8) * 255
            PIL.Image.fromarray(values).save(root / kind / f"{name}.png")


def refused(folder, split="train"):
    with pytest.raises(DataError) as caught:
        data = open_membranes(folder, split)
        data.original(len(data) - 1)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_page_and_its_mask_come_as_they_were_written(tmp_path):
    data = open_membranes(publish(tmp_path), "test")
    assert data.names == tuple(f"test-volume-{page:02d}" for page in range(5))
    for page in range(5):
        sample = data.original(page)
        assert np.array_equal(sample["image"], np.repeat(pages(5, seed=2)[page][..., None], 3, axis=2))
        assert np.array_equal(sample["target"], masks(5)[page])


@pytest.mark.parametrize("compression", [None, "packbits", "deflate", "lzw"])
def test_stacks_may_be_compressed(tmp_path, compression):
    first, *rest = [PIL.Image.fromarray(page) for page in pages(3)]
    how = {None: None, "packbits": "packbits", "deflate": "tiff_adobe_deflate", "lzw": "tiff_lzw"}[compression]
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest, compression=how)
    assert page_count(tmp_path / "a.tif") == 3
    assert np.array_equal([read_page(tmp_path / "a.tif", page) for page in range(3)], pages(3))


def test_binary_pages_are_read_as_black_and_white(tmp_path):
    PIL.Image.fromarray(masks(1)[0]).convert("1").save(tmp_path / "a.tif")
    assert np.array_equal(read_page(tmp_path / "a.tif", 0), masks(1)[0])


def test_without_a_test_stack_two_tenths_are_held_back(tmp_path):
    publish(tmp_path, test=False, count=30)
    parts = {split: open_membranes(tmp_path, split).names for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [24, 3, 3]
    assert sorted(sum(parts.values(), ())) == sorted(open_membranes(tmp_path, "all").names)
    again = {split: open_membranes(tmp_path, split).names for split in SPLITS}
    other = {split: open_membranes(tmp_path, split, seed=1).names for split in SPLITS}
    assert parts == again != other


def test_with_a_test_stack_only_validation_is_held_back(tmp_path):
    publish(tmp_path)
    assert [len(open_membranes(tmp_path, split)) for split in (*SPLITS, "all")] == [10, 2, 5, 17]


def test_a_test_stack_without_labels_is_not_scored_nor_replaced(tmp_path):
    publish(tmp_path, test_labels=False)
    assert [len(open_membranes(tmp_path, split)) for split in ("train", "val", "all")] == [10, 2, 12]
    assert "can be applied to, not scored" in refused(tmp_path, "test")
    photos = Stack(tmp_path / "test-volume.tif")
    assert len(photos) == 5
    assert set(photos.original(0)) == {"image"}


def test_folders_of_pictures_split_the_same_way(tmp_path):
    save_folder(tmp_path / "flat", [f"p{k}" for k in range(20)])
    save_folder(tmp_path / "parts" / "train", [f"p{k}" for k in range(20)])
    save_folder(tmp_path / "parts" / "Test", [f"q{k}" for k in range(3)])
    assert [len(open_membranes(tmp_path / "flat", split)) for split in (*SPLITS, "all")] == [16, 2, 2, 20]
    assert [len(open_membranes(tmp_path / "parts", split)) for split in (*SPLITS, "all")] == [18, 2, 3, 23]
    assert open_membranes(tmp_path / "parts", "test").names == ("q0", "q1", "q2")


def test_the_fingerprint_follows_every_pixel_and_no_path(tmp_path):
    prints = {split: open_membranes(publish(tmp_path / "a"), split).fingerprint for split in SPLITS}
    assert len(set(prints.values())) == 3
    assert prints == {split: open_membranes(publish(tmp_path / "b"), split).fingerprint for split in SPLITS}
    changed = masks()
    changed[3, 4, 5] ^= 255
    tifffile.imwrite(tmp_path / "b" / "train-labels.tif", changed)
    assert open_membranes(tmp_path / "b", "train").fingerprint != prints["train"]


def test_differing_page_counts_are_refused(tmp_path):
    tifffile.imwrite(publish(tmp_path) / "train-labels.tif", masks(11))
    text = refused(tmp_path)
    assert "12 pages" in text
    assert "11" in text


def test_pages_of_differing_sizes_are_refused(tmp_path):
    tifffile.imwrite(publish(tmp_path) / "train-labels.tif", masks(12, 20, 23))
    assert "24 x 20 and 23 x 20" in refused(tmp_path)


@pytest.mark.parametrize(
    ("stack", "found"),
    [
        (np.zeros((12, 20, 24), np.uint16), "16-bit"),
        (np.zeros((12, 20, 24, 3), np.uint8), "RGB"),
        (np.zeros((12, 20, 24), np.float32), "not 8-bit grey"),
    ],
    ids=["16 bit", "colour", "float"],
)
def test_pages_that_are_not_8_bit_grey_are_refused(tmp_path, stack, found):
    photometric = "rgb" if stack.ndim == 4 else "minisblack"
    tifffile.imwrite(publish(tmp_path) / "train-volume.tif", stack, photometric=photometric)
    assert found in refused(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 8, 100, 0.5, 0.98])
@pytest.mark.parametrize("name", ["train-volume.tif", "train-labels.tif"])
def test_stacks_cut_short_are_refused(tmp_path, name, kept):
    path = publish(tmp_path) / name
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    assert name in refused(tmp_path)


def test_other_bytes_are_refused(tmp_path):
    PIL.Image.fromarray(pages(1)[0]).save(publish(tmp_path) / "train-volume.tif", format="PNG")
    assert "no TIFF" in refused(tmp_path)


def test_masks_of_zero_and_one_are_refused(tmp_path):
    tifffile.imwrite(publish(tmp_path / "stack") / "train-labels.tif", masks() // 255)
    assert "0 and 1" in refused(tmp_path / "stack")
    save_folder(tmp_path / "folder", "abcd")
    for path in (tmp_path / "folder" / "labels").iterdir():
        PIL.Image.fromarray(np.asarray(PIL.Image.open(path)) // 255).save(path)
    assert "0 and 1" in refused(tmp_path / "folder")


@pytest.mark.parametrize("lost", ["train-volume.tif", "train-labels.tif", "test-volume.tif"])
def test_a_stack_without_its_partner_is_refused(tmp_path, lost):
    (publish(tmp_path) / lost).unlink()
    partner = lost.replace("volume", "L").replace("labels", "volume").replace("L", "labels")
    text = refused(tmp_path)
    assert lost in text
    assert partner in text


def test_what_is_not_there_is_refused(tmp_path):
    assert "nothing" in refused(tmp_path / "nowhere")
    save_folder(tmp_path / "one", "a")
    assert "nothing in the train split" in refused(tmp_path / "one")  # the only page is held back
    with pytest.raises(UsageError, match="unknown split"):
        open_membranes(publish(tmp_path / "x"), "trian")


def test_a_photo_without_a_mask_is_refused(tmp_path):
    save_folder(tmp_path, "abc")
    (tmp_path / "labels" / "b.png").unlink()
    assert "without a target (b)" in refused(tmp_path)


@pytest.mark.shared_data
def test_isbi_has_every_split(shared_data):
    root = shared_data / "membrane" / "isbi2012"
    assert [len(open_membranes(root, split)) for split in SPLITS] == [18, 2, 4]
    sample = open_membranes(root, "test").original(0)
    assert sample["image"].shape == (512, 512, 3)
    assert set(np.unique(sample["target"])) == {0, 255}
