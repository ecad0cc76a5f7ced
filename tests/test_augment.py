import numpy as np
import pytest
import torch

from compress.kit.data.augment import Change, _matrix, _warp, augment, draw
from compress.kit.data.batches import Augmentation

SEEDS = [3, 2**64 - 1, 77, 0]


def batch(channels=1, size=72, count=4):
    made = np.random.default_rng(0).integers(0, 256, (count, 3 + channels, size, size), np.uint8)
    return torch.from_numpy(made[:, :3].copy()), torch.from_numpy(made[:, 3:].copy())


def test_shapes_and_types():
    image, target = augment(*batch(), SEEDS, 64)
    assert image.shape == (4, 3, 64, 64)
    assert target.shape == (4, 1, 64, 64)
    assert image.dtype == target.dtype == torch.uint8
    assert augment(batch()[0], None, SEEDS, 64)[1] is None


@pytest.mark.parametrize("side", [72, 300])  # 300: large enough for torch to share out the work among threads
def test_a_sample_does_not_depend_on_its_batch_or_on_threads(side):
    image, target = batch(size=side)
    together = augment(image, target, SEEDS, side)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for i, seed in enumerate(SEEDS):
            alone = augment(image[i : i + 1], target[i : i + 1], [seed], side)
            assert torch.equal(alone[0][0], together[0][i])
            assert torch.equal(alone[1][0], together[1][i])
    finally:
        torch.set_num_threads(threads)


def test_equal_seeds_do_the_same_and_other_seeds_something_else():
    image = batch(count=1)[0].expand(2, -1, -1, -1)
    same = augment(image, None, [5, 5], 64)[0]
    other = augment(image, None, [5, 6], 64)[0]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(other[0], other[1])


def test_what_goes_in_is_left_as_it_was():
    image, target = batch()
    before = image.clone(), target.clone()
    augment(image, target, SEEDS, 64)
    assert torch.equal(image, before[0])
    assert torch.equal(target, before[1])


def test_photo_and_target_move_together():
    seeds = list(range(12))
    rows, columns = torch.meshgrid(torch.arange(80), torch.arange(80), indexing="ij")
    disc = (((rows - 30) ** 2 + (columns - 50) ** 2) < 20**2).to(torch.uint8) * 255
    image, target = augment(disc.expand(12, 3, 80, 80), disc.expand(12, 1, 80, 80), seeds, 64)
    bright = image[:, 1].float() / image[:, 1].amax((1, 2), keepdim=True)
    agree = ((bright > 0.5) == (target[:, 0] > 127)).float().mean()
    assert agree > 0.99


def test_light_leaves_targets_alone():
    white = torch.full((4, 1, 72, 72), 255, dtype=torch.uint8)
    assert (augment(batch()[0], white, SEEDS, 64)[1] == 255).all()


def test_nearest_invents_no_class():
    classes = torch.from_numpy(np.random.default_rng(1).choice(np.array([0, 9, 255], np.uint8), (4, 1, 72, 72)))
    made = augment(batch()[0], classes, SEEDS, 64, nearest=True)[1]
    assert set(made.unique().tolist()) <= {0, 9, 255}


def test_parameters_stay_in_their_ranges():
    drawn = [draw(seed, 90, 72, 64, Augmentation()) for seed in range(300)]
    shares = np.array([d.height * d.width / (90 * 72) for d in drawn])
    assert 0.5 < shares.min() < 0.65
    assert shares.max() <= 1
    assert all(0 <= d.top <= 90 - d.height + 1e-9 and 0 <= d.left <= 72 - d.width + 1e-9 for d in drawn)
    assert 0.4 < np.mean([d.flip for d in drawn]) < 0.6
    assert 0.4 < np.mean([d.angle == 0 for d in drawn]) < 0.6


def test_a_crop_without_a_turn_maps_its_corners_to_the_results_corners():
    change = next(d for d in (draw(s, 90, 72, 64, Augmentation()) for s in range(50)) if d.angle == 0 and not d.flip)
    corners = np.array([[change.left, change.top], [change.left + change.width, change.top + change.height]]) - 0.5
    matrix = _matrix(change, 64)
    np.testing.assert_allclose(corners @ matrix[:, :2].T + matrix[:, 2], [[-0.5, -0.5], [63.5, 63.5]], atol=1e-9)


def test_crops_reach_down_to_the_training_size_and_no_wider_than_told():
    how = Augmentation(closest=0.0, widest=1.5)
    sides = np.array([(d.height * d.width) ** 0.5 for d in (draw(seed, 256, 256, 64, how) for seed in range(300))])
    assert 55 < sides.min() < 68  # 64, give or take an aspect that was cut at the border
    assert 90 < sides.max() <= 96 + 1e-6


def test_pictures_without_an_up_are_turned_by_any_quarter_and_mirrored_both_ways():
    drawn = [draw(seed, 64, 64, 64, Augmentation(upright=False)) for seed in range(400)]
    quarters = np.bincount([round(d.angle / 90) % 4 for d in drawn], minlength=4)
    assert quarters.min() > 60
    assert 0.4 < np.mean([d.upside_down for d in drawn]) < 0.6
    assert not any(d.upside_down or abs(d.angle) > 8 for d in (draw(s, 64, 64, 64, Augmentation()) for s in range(50)))


def test_a_quarter_turn_is_numpy_s():
    square = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))
    for quarters in range(4):
        change = Change(0, 0, 32, 32, False, 90.0 * quarters, 1, 1, 1)
        turned = _warp(square, change, 32, "nearest")[0].numpy()
        assert np.array_equal(turned, np.rot90(square[0].numpy(), -quarters, axes=(1, 2)))


def test_without_relight_the_picture_keeps_its_colours_and_equals_its_target():
    image = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.manual_seed(0))
    mine, theirs = augment(image, image, [1, 2, 3, 4], 32, Augmentation(relight=False))
    assert torch.equal(mine, theirs)
    lit, _ = augment(image, image, [1, 2, 3, 4], 32)
    assert not torch.equal(lit, mine)


def test_half_of_the_samples_are_bent_and_their_targets_with_them():
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))
    flat, bent = Augmentation(relight=False), Augmentation(relight=False, elastic=0.05)
    changed = 0
    for seed in range(12):
        mine, theirs = augment(image, image, [seed], 64, bent)
        assert torch.equal(mine, theirs)
        changed += not torch.equal(mine, augment(image, image, [seed], 64, flat)[0])
    assert 2 < changed < 10
