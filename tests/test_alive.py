"""Ablation: shuffled branches against slow loops, what is called dead, and the command as a user types it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compress import cli
from compress.core.errors import DataError, UsageError
from compress.core.launch import launch
from compress.core.machine import this_machine
from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.types import Artifact, ImageSpec
from compress.formats.safetensors import Safetensors
from compress.jobs.alive import Branch, ablate, drawn, framed
from compress.kit.alive import CONSTANT, Shuffled
from compress.kit.data.sets import Dataset
from compress.kit.images import prepare
from compress.kit.intervals import Interval
from compress.tasks import TASKS

SALIENCY = TASKS.get("saliency")
NAMES = [
    *("voc_unet", "plain_unet", "vgg_unet", "unet_slim", "lraspp_small"),
    *("u2net", "u2net_big", "u2net_small", "u2net_student", "u2netp"),
]


class Two(nn.Module):
    """One map from the red plane and, by ``share``, the green one; a branch nobody reads and one that is constant."""

    def __init__(self, share=0.5):
        super().__init__()
        self.share = share
        self.red, self.green, self.still, self.join = nn.Identity(), nn.Identity(), nn.Identity(), Sum()

    def forward(self, image):
        red, green = self.red(image[:, :1]), self.green(image[:, 1:2])
        still = self.still(torch.ones_like(red))
        return (self.join(red, self.share * green) + still,)


class Sum(nn.Module):
    def forward(self, a, b):
        return a + b


def images(count=3, seed=0):
    return torch.randn(count, 3, 4, 5, generator=torch.manual_seed(seed))


def test_a_shuffled_output_is_the_one_of_the_image_before():
    net, x = Two(), images()
    before = x[[2, 0, 1]]
    with Shuffled(net, "red"):
        (found,) = net(x)
    assert torch.equal(found, before[:, :1] + 0.5 * x[:, 1:2] + 1)
    assert torch.equal(net(x)[0], x[:, :1] + 0.5 * x[:, 1:2] + 1)  # and closed it is itself again


def test_an_argument_is_shuffled_alone():
    net, x = Two(), images()
    with Shuffled(net, "join:1"):
        (found,) = net(x)
    assert torch.equal(found, x[:, :1] + 0.5 * x[[2, 0, 1], 1:2] + 1)


def test_every_tensor_of_a_tuple_is_shuffled():
    net = nn.Sequential(Two(), nn.Identity())
    net[1].forward = lambda outputs: outputs
    with Shuffled(net, "1"):
        (found,) = net(images())
    assert torch.equal(found, Two()(images())[0][[2, 0, 1]])


def test_spread_is_the_deviation_over_images():
    net, x = Two(), images(4000)
    shuffles = {name: Shuffled(net, name) for name in ("red", "still")}
    for shuffled in shuffles.values():
        with shuffled:
            net(x + 3)
    red = x[:, 0].numpy().astype(np.float64) + 3
    assert shuffles["red"].spread == pytest.approx(red.std(axis=0).mean() / np.sqrt((red**2).mean()), rel=0.02)
    assert shuffles["still"].spread == 0
    assert Shuffled(net, "green").spread == 0  # it never ran


@pytest.mark.parametrize("branch", ["rde", "", "join:x", "join:", ":1"])
def test_a_branch_that_is_not_there_is_refused(branch):
    with pytest.raises(UsageError, match="has no branch"):
        Shuffled(Two(), branch)


def test_an_argument_too_many_is_refused():
    net = Two()
    with pytest.raises(UsageError, match="called with 2 arguments"), Shuffled(net, "join:2"):
        net(images())


class Discs(Dataset):
    """Photos whose red plane is the mask."""

    names = tuple(f"disc {k}" for k in range(13))
    fingerprint = "discs"

    def original(self, index):
        random = np.random.default_rng(index)
        y, x = random.integers(10, 30, 2)
        rows, columns = np.mgrid[:40, :48]
        mask = (((rows - y) ** 2 + (columns - x) ** 2 < 100) * 255).astype(np.uint8)
        photo = random.integers(0, 256, (40, 48, 3)).astype(np.uint8)
        photo[..., 0] = mask
        return {"image": photo, "target": mask}


def run_ablation(net, batch, branches=("red", "green", "still")):
    spec = replace(SALIENCY.input, height=32, width=32)
    plain, found = ablate(net, branches, spec, SALIENCY, Discs(), batch=batch, advance=lambda note="": None)
    return spec, plain, {branch.name: branch for branch in found}


def test_costs_are_those_of_a_loop_over_images():
    spec, plain, found = run_ablation(Two(0.05), batch=4)
    data = Discs()
    photos = [prepare(data.original(k)["image"], spec) for k in range(13)]
    groups = np.array_split(np.arange(13), 3)
    wanted, shuffled = [], []
    for group in groups:
        for place, k in enumerate(group):
            target = data.original(int(k))["target"]
            other = photos[group[place - 1]]
            for red, store in ((photos[k][:1], wanted), (other[:1], shuffled)):
                mask = 1 / (1 + np.exp(-(red + 0.05 * photos[k][1:2] + 1)))
                store.append(SALIENCY.score(mask, target)["loss"])
    assert plain == pytest.approx(wanted, rel=1e-4)
    differences = np.subtract(shuffled, wanted)
    assert found["red"].costs == pytest.approx(differences, abs=1e-4)
    half = 1.96 * differences.std() / np.sqrt(13)  # the normal law's, near enough for 13
    ends = differences.mean() - half, differences.mean() + half
    assert (found["red"].rise.low, found["red"].rise.high) == pytest.approx(ends, abs=0.35 * half)


def test_what_matters_is_alive_and_what_does_not_is_dead():
    _, _, found = run_ablation(Two(0.0), batch=4)
    assert found["red"].dead == ""
    assert found["red"].rise.low > 0
    assert found["red"].spread > 0.1
    assert found["green"].costs == (0.0,) * 13
    assert found["green"].dead == "shuffling it costs nothing"
    assert found["still"].dead == "the same for every image"


def test_few_images_kill_no_branch_that_varies():
    few = Interval(-0.05, None, None, 2)
    assert Branch("a", (0.0, -0.1), few, 0.3).dead == ""
    assert Branch("a", (0.0, -0.1), few, CONSTANT / 2).dead != ""
    assert Branch("a", (1.0, 2.0), Interval(1.5, -0.1, 3.0, 12), 0.3).dead != ""


def test_pictures_are_drawn_by_seed_and_one_is_too_few():
    assert len(drawn(Discs(), None, 0)) == 13
    assert drawn(Discs(), 5, 1).names == drawn(Discs(), 5, 1).names != drawn(Discs(), 5, 2).names
    with pytest.raises(DataError, match="1 picture"):
        drawn(Discs(), 1, 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_declared_branch_reaches_what_ships(name):
    network = find_network(name)
    torch.manual_seed(0)
    net = network.build(width=8).eval()
    x = torch.randn(2, 3, 33, 48, generator=torch.manual_seed(1))
    assert network.branches
    with torch.no_grad():
        own = net(x)[0]
        for branch in network.branches:
            shuffled = Shuffled(net, branch)
            with shuffled:
                other = net(x)[0]
            assert shuffled.spread > CONSTANT, branch
            assert not torch.equal(own, other), branch
            assert torch.equal(net(x)[0], own)


def test_every_skip_and_side_output_is_a_branch():
    assert find_network("voc_unet").branches == ("up4:0", "up4:1", "up3:1", "up2:1", "up1:1")
    assert find_network("vgg_unet").branches == find_network("voc_unet").branches
    for name in ("u2net_big", "u2netp", "u2net_student"):
        branches = find_network(name).branches
        assert {f"side{k}" for k in range(1, 7)} | {f"join{k}:1" for k in range(1, 6)} <= set(branches)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one untrained network whose finest skip is cut off."""
    store = Store(tmp_path_factory.mktemp("store"))
    torch.manual_seed(0)
    network, task = find_network("unet_slim"), TASKS.get("segmentation")
    net = network.build(width=4, classes=6).eval()
    with torch.no_grad():
        net.up1.block[0].weight[:, :4] = 0
    sides = {"height": 32, "width": 32}
    record = Artifact(
        id="", name="cut", kind="student", task=task.name, network=network.name,
        network_options={"width": 4, "classes": 6}, format="safetensors", dtype="float32", method="train",
        options={"data": ["builtin"]}, parent="", parent_sha256="", teacher="", key="cut",
        input=replace(task.input, **sides), output=replace(task.output, channels=6, **sides), files=(), parameters=1,
        macs=1, data="d", metrics={}, machine=this_machine(), seed=0, versions={}, commit="", created="2026", seconds=1,
    )  # fmt: skip
    with store.draft() as draft:
        Safetensors().write(net, draft)
        store.publish(draft, record)
    return store


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


def test_the_command_tells_what_is_dead_and_keeps_rows(store, capsys):
    assert run("ablate", "--model", "cut", "--limit", 12, "--store", store.root, "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["images"] == 12
    dead = {entry["branch"]: entry["dead"] for entry in told["branches"]}
    assert list(dead) == list(find_network("unet_slim").branches)
    assert dead["up1:1"] == "shuffling it costs nothing"
    assert "DEAD: up1:1 of cut" in err
    rows = [row for row in store.rows() if row.quantity == "ablation"]
    assert [row.details["branch"] for row in rows] == list(dead)
    assert all(len(row.repeats) == 12 and row.value == pytest.approx(np.mean(row.repeats)) for row in rows)
    assert len({row.run for row in rows}) == 1


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--model cut --batch 1", 2, "--batch is 1"),
        ("--model cut --limit 0", 2, "--limit is 0"),
        ("--model cut --limit 1", 2, "1 picture"),
        ("--model cut --limit 4 --branch up9", 2, "has no branch 'up9'"),
        ("--model nothing", 4, "no artifact 'nothing'"),
    ],
)
def test_mistakes_are_one_line(store, capsys, line, code, words):
    before = len(store.rows())
    assert run("ablate", *line.split(), "--store", store.root, "--quiet") == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert len(store.rows()) == before


def test_the_table_ends_with_the_id(store, capsys):
    assert run("ablate", "--limit", 4, "--branch", "up4:0", "--size", 48, "--store", store.root) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("loss ")
    assert "too few images" in out[1]
    assert out[-1] == store.artifacts()[-1].id


@pytest.mark.parametrize(
    ("fit", "size"), [("native", (40, 50)), ("native", (20, 50)), ("stretch", (40, 50)), ("pad", (20, 50))]
)
def test_pictures_are_framed_as_the_network_sees_them(fit, size):
    target = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    sample = {"image": np.repeat(target[..., None], 3, axis=2), "target": target}
    found = framed(sample, ImageSpec(height=32, width=32, fit=fit))
    assert found["image"].shape == (32, 32, 3)
    alike = found["target"].shape == (32, 32) and np.array_equal(found["image"][..., 0], found["target"])
    if fit == "native" and min(size) >= 32:
        assert np.array_equal(found["target"], target[4:36, 9:41])
        assert alike
    elif fit == "pad":
        assert alike
        assert (found["target"][:9] == 255).all()
    else:
        assert np.array_equal(found["target"], target)
