"""CycleGAN: its published count, every player's objective against plain sums, the pool, and photos without partners."""

import numpy as np
import PIL.Image
import pytest
import torch

from compress.core.errors import DataError, NoTruthError, UsageError
from compress.core.networks import find_network
from compress.kit.data.sets import Concat, Subset, open_photos
from compress.kit.data.unpaired import Unpaired, require_pairs
from compress.kit.graph import count_parameters
from compress.kit.nets.cyclegan import Judge, Pool, cycle_lesson
from compress.tasks import TASKS

TASK = TASKS.get("retouch")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def heap(folder, count, height=10, width=14, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        PIL.Image.fromarray(noise(height, width, 3, seed=seed + index)).save(folder / f"{index}.png")


def batch():
    generator = torch.Generator().manual_seed(0)
    image, target = (torch.rand(2, 3, 8, 8, generator=generator) for _ in range(2))
    return {"image": 2 * image - 1, "target": target}


def stand_ins():
    """Players simple enough to do by hand: raw outputs 2 x and 0.5 x; judges that return the mean of a picture."""

    def judge(weight):
        def opinion(made, real=None):
            shown = (made,) if real is None else (real, made)
            return tuple(weight * picture.mean((1, 2, 3))[:, None, None, None] for picture in shown)

        return opinion

    return {
        "network": lambda x: (2.0 * x,),
        "backward": lambda x: (0.5 * x,),
        "judge_a": judge(3.0),
        "judge_b": judge(-2.0),
    }


def l1(a, b):
    return np.abs(a - b).mean()


def there(x):
    return np.tanh(2.0 * x)


def back(x):
    return np.tanh(0.5 * x)


def by_hand():
    given = batch()
    return given, given["image"].double().numpy(), given["target"].double().numpy() * 2 - 1


def test_it_has_the_published_count():
    """11.378 M is what the authors' code prints for resnet_9blocks."""
    with torch.device("meta"):
        assert f"{count_parameters(find_network('cyclegan').build()) / 1e6:.3f}" == "11.378"
        rivals = find_network("cyclegan").teach(TASK, None).rivals
        counts = {name: count_parameters(rival.build()) for name, rival in rivals.items()}
    assert {name: f"{count / 1e6:.3f}" for name, count in counts.items()} == {
        "backward": "11.378",
        "judge_b": "2.765",
        "judge_a": "2.765",
    }


def test_the_network_is_pressed_by_both_cycles_identity_and_its_judge():
    given, a, b = by_hand()
    lesson, cast = cycle_lesson(10.0, 5.0, ngf=4, ndf=2), stand_ins()
    outputs = cast["network"](given["image"])
    assert lesson.loss(outputs, given)["loss"].item() == 0
    found = lesson.rivals["backward"].pressure(cast, outputs, given)
    cycles = l1(back(there(a)), a) + l1(there(back(b)), b)
    assert found["cycle"].item() == pytest.approx(cycles, rel=1e-5)
    assert found["identity"].item() == pytest.approx(l1(there(b), b), rel=1e-5)
    assert found["loss"].item() == pytest.approx(10 * cycles + 5 * l1(there(b), b), rel=1e-5)
    judged = lesson.rivals["judge_b"].pressure(cast, outputs, given)["loss"].item()
    assert judged == pytest.approx(((-2 * there(a).mean((1, 2, 3)) - 1) ** 2).mean(), rel=1e-4)
    assert lesson.rivals["judge_a"].pressure(cast, outputs, given)["loss"].item() == 0


def test_the_way_back_has_the_mirrored_objective():
    given, a, b = by_hand()
    lesson, cast = cycle_lesson(10.0, 5.0, ngf=4, ndf=2), stand_ins()
    found = lesson.rivals["backward"].loss(cast, cast["network"](given["image"]), given)
    cycles = l1(back(there(a)), a) + l1(there(back(b)), b)
    gan = ((3 * back(b).mean((1, 2, 3)) - 1) ** 2).mean()
    assert found["loss"].item() == pytest.approx(10 * cycles + 5 * l1(back(a), a) + gan, rel=1e-5)


def test_each_judge_tells_its_own_side_apart():
    given, a, b = by_hand()
    lesson, cast = cycle_lesson(10.0, 5.0, ngf=4, ndf=2), stand_ins()
    outputs = cast["network"](given["image"])
    for name, weight, real, made in (("judge_a", 3, a, back(b)), ("judge_b", -2, b, there(a))):
        right, wrong = (weight * side.mean((1, 2, 3)) for side in (real, made))
        wanted = (((right - 1) ** 2).mean() + (wrong**2).mean()) / 2
        assert lesson.rivals[name].loss(cast, outputs, given)["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_pairs_in_a_batch_teach_nothing():
    """Exchanging the targets of a batch changes no sum that anyone minimises."""
    given = batch()
    swapped = {**given, "target": given["target"].flip(0)}
    lesson, cast = cycle_lesson(10.0, 5.0, ngf=4, ndf=2), stand_ins()
    outputs = cast["network"](given["image"])
    for rival in lesson.rivals.values():
        for part in (rival.loss, rival.pressure):
            one, two = (part(cast, outputs, which)["loss"].item() for which in (given, swapped))
            assert one == pytest.approx(two, rel=1e-5)


def test_the_pool_shows_new_pictures_first_then_old_ones_half_of_the_time():
    pool = Pool(5)
    pictures = torch.arange(400, dtype=torch.float32).view(400, 1, 1, 1)
    shown = torch.cat([pool(pictures[k : k + 2]) for k in range(0, 400, 2)]).flatten().tolist()
    assert shown[:5] == [0, 1, 2, 3, 4]
    old = [value != place for place, value in enumerate(shown)]
    assert 0.4 < np.mean(old[5:]) < 0.6
    returned = [value for value, was in zip(shown, old, strict=True) if was]
    assert len(set(returned)) == len(returned)  # what was shown again has left the pool
    assert all(value < place for place, (value, was) in enumerate(zip(shown, old, strict=True)) if was)


def test_a_resumed_pool_goes_on_as_if_nothing_had_happened():
    pictures = torch.randn(60, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole, first = Judge(2), Judge(2)
    first.load_state_dict(whole.state_dict())
    one = [whole.pool(pictures[k : k + 3]) for k in range(0, 60, 3)]
    two = [first.pool(pictures[k : k + 3]) for k in range(0, 30, 3)]
    second = Judge(2)
    second.load_state_dict(first.state_dict())
    two += [second.pool(pictures[k : k + 3]) for k in range(30, 60, 3)]
    assert torch.equal(torch.cat(one), torch.cat(two))


def test_only_judging_fills_the_pool_and_no_gradient_passes_it():
    judge, made = Judge(2), torch.randn(1, 3, 16, 16, requires_grad=True)
    judge(made)[0].sum().backward()
    assert made.grad.any()
    assert int(judge.pool.seen) == 0
    real, fake = judge(made, torch.randn(1, 3, 16, 16))
    assert int(judge.pool.seen) == 1
    made.grad = None
    (real.sum() + fake.sum()).backward()
    assert made.grad is None


@pytest.mark.parametrize(("before", "after"), [(3, 7), (7, 3)])
@pytest.mark.parametrize("sides", [("A", "B"), ("trainA", "trainB"), ("train/A", "train/B")])
def test_every_photo_of_either_side_has_its_turn(tmp_path, before, after, sides):
    heap(tmp_path / sides[0], before)
    heap(tmp_path / sides[1], after, 30, 20, seed=50)
    data = TASK.open([str(tmp_path)], "train")
    assert isinstance(data, Unpaired)
    assert len(data) == len(set(data.names)) == max(before, after)
    samples = [data.original(index) for index in range(len(data))]
    assert all(sample["image"].shape == sample["target"].shape == (10, 14, 3) for sample in samples)
    assert len({sample["image"].tobytes() for sample in samples}) == before
    assert len({sample["target"].tobytes() for sample in samples}) == after
    again = TASK.open([str(tmp_path)], "train")
    assert again.fingerprint == data.fingerprint
    assert np.array_equal(again.original(1)["target"], samples[1]["target"])
    assert TASK.open([str(tmp_path)], "train", seed=1).fingerprint != data.fingerprint


def test_a_target_is_cut_and_not_squeezed(tmp_path):
    heap(tmp_path / "A", 1, 10, 10)
    (tmp_path / "B").mkdir()
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    PIL.Image.fromarray(wide).save(tmp_path / "B" / "wide.png")
    assert (TASK.open([str(tmp_path)], "train").original(0)["target"] == 200).all()


@pytest.mark.parametrize("split", ["val", "test"])
def test_there_is_nothing_to_score_by(tmp_path, split):
    for side in ("trainA", "trainB", "testA", "testB"):
        heap(tmp_path / side, 2)
    with pytest.raises(NoTruthError, match="no pairs"):
        TASK.open([str(tmp_path)], split)
    # beside something that can be scored it is left out
    assert len(TASK.open([str(tmp_path), "builtin"], split)) == len(TASK.open(["builtin"], split))


@pytest.mark.parametrize(("there", "missing"), [("A", "B"), ("B", "A"), ("trainA", "trainB"), ("train/B", "train/A")])
def test_one_side_alone_is_refused(tmp_path, there, missing):
    heap(tmp_path / there, 2)
    with pytest.raises(DataError, match=f"no {missing}/"):
        TASK.open([str(tmp_path)], "train")


def test_an_empty_side_is_refused(tmp_path):
    heap(tmp_path / "A", 2)
    (tmp_path / "B").mkdir()
    with pytest.raises(DataError, match="empty"):
        TASK.open([str(tmp_path)], "train")


@pytest.mark.parametrize("name", ["pix2pixhd_retouch", "pix2pix"])
def test_who_learns_from_pairs_refuses_heaps(tmp_path, name):
    heap(tmp_path / "A", 3)
    data = Unpaired(open_photos([tmp_path / "A"]), open_photos([tmp_path / "A"]))
    pairs = TASK.open(["builtin"], "train")
    for hidden in (data, Concat((pairs, data)), Subset(data, (0, 1))):
        with pytest.raises(UsageError, match="no pairs"):
            find_network(name).teach(TASK, hidden)
        with pytest.raises(UsageError, match="no pairs"):
            TASK.teach(hidden)
    require_pairs(Concat((pairs, Subset(pairs, (0,)))))
