"""Training against a discriminator: its structure, both sides' losses, its penalty, and GANs that stay finite."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn import functional as F

from compress import cli
from compress.core.errors import UsageError
from compress.core.launch import launch
from compress.core.networks import find_network
from compress.core.store import HISTORY, sha256_of
from compress.kit.data.degrade import Crops, Degraded
from compress.kit.graph import count_parameters
from compress.kit.loop import Loop
from compress.kit.nets.adversary import (
    NAME,
    Contest,
    Patches,
    Scales,
    against,
    conditional,
    feature_matching,
    fooling,
    judging,
    r1,
)
from compress.tasks import TASKS

TASK = TASKS.get("retouch")
DATA = Degraded(Crops("train", length=2, size=32))
KINDS = ("lsgan", "hinge", "vanilla")


def verdicts(seed, scales=3):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(2, 4, 8 >> n, 8 >> n, generator=generator) for _ in range(3)] for n in range(scales)]


def batch(side=32):
    generator = torch.Generator().manual_seed(0)
    image, target = (torch.rand(2, 3, side, side, generator=generator) for _ in range(2))
    return {"image": 2 * image - 1, "target": target}


def turns(module, lesson, given, steps, rate=1e-3, autocast=False):
    """The loop in a few lines: the network, then each rival on what it gave before it moved; losses by name."""
    players = {"network": module, **{name: rival.build() for name, rival in lesson.rivals.items()}}
    optimizers = {name: torch.optim.Adam(p.parameters(), rate, (0.5, 0.999)) for name, p in players.items()}
    history = []
    phase = None
    for step in range(steps):
        now = lesson.phase_at(step, steps)
        if now is not None and now is not phase:
            now.enter(module)
        phase, told = now, {}
        for name, optimizer in optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                if name == "network":
                    outputs = module(*lesson.feed(given))
                    losses = dict(lesson.loss(outputs, given))
                    for rival_name, rival in lesson.rivals.items():
                        parts = rival.pressure(players, outputs, given)
                        losses |= {f"{rival_name}_{key}": value for key, value in parts.items() if key != "loss"}
                        losses["loss"] = losses["loss"] + parts["loss"]
                    held = [output.detach() for output in outputs]
                else:
                    losses = lesson.rivals[name].loss(players, held, given)
            assert losses["loss"].dtype == torch.float32
            losses["loss"].backward()
            told |= {f"{name}/{key}": float(value.detach()) for key, value in losses.items()}
            optimizer.step()
        history.append(told)
    return history, players


@pytest.mark.parametrize(("channels", "scaled", "millions"), [(6, True, "2.769"), (3, False, "2.765")])
def test_the_discriminator_has_the_published_count(channels, scaled, millions):
    """What the authors' code prints for pix2pix and for CycleGAN."""
    assert f"{count_parameters(Patches(channels, scaled=scaled)) / 1e6:.3f}" == millions


def test_the_discriminator_has_the_published_layers():
    layers = [(6, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    assert count_parameters(Patches(6)) == sum(inputs * outputs * 16 + outputs for inputs, outputs in layers)
    assert count_parameters(Scales(6)) == 3 * count_parameters(Patches(6))


def test_an_opinion_sees_70_pixels():
    judge = Patches(1, ndf=4).double()
    for layer in judge.layers[1:4]:
        layer[1] = torch.nn.Identity()  # a norm sees the whole map
    image = torch.randn(1, 1, 160, 160, dtype=torch.float64, requires_grad=True)
    opinion = judge(image)[-1]
    opinion[0, 0, opinion.shape[2] // 2, opinion.shape[3] // 2].backward()
    seen = torch.nonzero(image.grad[0, 0].abs().sum(0)).flatten()
    assert seen.max() - seen.min() + 1 == 70


@pytest.mark.parametrize("side", [32, 37, 128])
def test_every_scale_gives_features_and_an_opinion(side):
    found = Scales(6, ndf=4)(torch.randn(1, 6, side, side + 3))
    assert len(found) == 3
    assert [layer.shape[1] for layer in found[0]] == [4, 8, 16, 32, 1]
    assert found[0][-1].shape[2] > found[1][-1].shape[2] > found[2][-1].shape[2]


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_minimise_what_loops_say(kind):
    real, fake = verdicts(1), verdicts(2)
    judged = fooled = 0.0
    for r, f in zip(real, fake, strict=True):
        a, b = r[-1].double().numpy(), f[-1].double().numpy()
        if kind == "lsgan":
            judged += (((a - 1) ** 2).mean() + (b**2).mean()) / 2
            fooled += ((b - 1) ** 2).mean()
        elif kind == "hinge":
            judged += np.maximum(0, 1 - a).mean() + np.maximum(0, 1 + b).mean()
            fooled += -b.mean()
        else:
            p, q = 1 / (1 + np.exp(-a)), 1 / (1 + np.exp(-b))
            judged += -(np.log(p).mean() + np.log(1 - q).mean()) / 2
            fooled += -np.log(q).mean()
    assert judging(real, fake, kind).item() == pytest.approx(judged, rel=1e-5)
    assert fooling(fake, kind).item() == pytest.approx(fooled, rel=1e-5)


def test_feature_matching_is_the_l1_of_all_layers_but_the_opinion():
    real, fake = verdicts(1), verdicts(2)
    layers = [(r[n], f[n]) for r, f in zip(real, fake, strict=True) for n in (0, 1)]
    wanted = sum((a - b).abs().mean().item() for a, b in layers)
    assert feature_matching(real, fake).item() == pytest.approx(wanted, rel=1e-5)
    assert feature_matching(real, real).item() == 0


@pytest.mark.parametrize("side", [4, 9])
def test_r1_is_half_the_squared_slope_whatever_the_size(side):
    """Opinions 3 (red + green + blue) of every pixel have a slope of 3 at each of their values."""
    picture = torch.randn(2, 3, side, side, requires_grad=True)
    penalty = r1([[3 * picture.sum(1, keepdim=True)]], picture)
    patches = side * side
    assert penalty.item() == pytest.approx(3**2 * 3 * patches / patches / 2, rel=1e-5)


def test_r1_is_what_finite_differences_say():
    torch.manual_seed(0)
    judge, picture = Patches(1, ndf=2).double(), torch.randn(1, 1, 8, 8, dtype=torch.float64)

    def score(values):
        opinion = judge(values)[-1]
        return float(opinion.detach().sum()) / opinion[0].numel() ** 0.5

    slopes = []
    for place in range(64):
        step = torch.zeros(64, dtype=torch.float64)
        step[place] = 1e-6
        step = step.view_as(picture)
        slopes.append((score(picture + step) - score(picture - step)) / 2e-6)
    picture.requires_grad_()
    assert r1([judge(picture)], picture).item() == pytest.approx(sum(s * s for s in slopes) / 2, rel=1e-4)


def test_the_penalty_is_added_to_what_the_judge_minimises():
    rival = conditional(Contest(ndf=4, gradient_penalty=10.0))
    torch.manual_seed(0)
    cast, raw = {NAME: rival.build()}, [torch.zeros(2, 3, 32, 32)]
    with_it = rival.loss(cast, raw, batch())
    without = conditional(Contest(ndf=4)).loss(cast, raw, batch())
    assert with_it["penalty"] > 0
    assert with_it["loss"].item() == pytest.approx(without["loss"].item() + 10 * with_it["penalty"].item(), rel=1e-5)
    with_it["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in cast[NAME].parameters() if p.grad is not None)


def test_spectral_norm_bounds_every_convolution():
    torch.manual_seed(0)
    judge = Patches(3, ndf=4, spectral=True).train()
    for _ in range(60):
        judge(torch.randn(1, 3, 32, 32))
    for layer in judge.layers:
        largest = np.linalg.svd(layer[0].weight.detach().flatten(1).numpy(), compute_uv=False)[0]
        assert largest == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_discriminator_learns_to_tell_and_presses_the_picture(kind):
    torch.manual_seed(0)
    rival, given = conditional(Contest(kind, ndf=4)), batch()
    cast = {NAME: rival.build()}
    raw = torch.zeros(2, 3, 32, 32, requires_grad=True)
    optimizer = torch.optim.Adam(cast[NAME].parameters(), 2e-3)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = rival.loss(cast, [raw.detach()], given)["loss"]
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    parts = rival.pressure(cast, [raw], given)
    parts["loss"].backward()
    assert raw.grad.abs().sum() > 0
    assert set(parts) == {"loss", "gan", "matching"}
    assert parts["loss"].item() == pytest.approx(0.01 * (parts["gan"] + 10 * parts["matching"]).item(), rel=1e-5)


def test_a_smaller_picture_is_judged_at_its_own_size():
    torch.manual_seed(0)
    rival, given = conditional(Contest(ndf=4)), batch()
    cast, raw = {NAME: rival.build()}, torch.randn(2, 3, 16, 16)
    halved = {key: F.avg_pool2d(value, 2) for key, value in given.items()}
    assert rival.loss(cast, [raw], given)["loss"].item() == pytest.approx(
        rival.loss(cast, [raw], halved)["loss"].item()
    )


@pytest.mark.parametrize(
    "terms", [{"scales": 0}, {"scales": 6}, {"ndf": 0}, {"adversarial": -1.0}, {"matching": float("nan")}]
)
def test_terms_that_cannot_be_are_refused(terms):
    with pytest.raises(UsageError, match=str(next(iter(terms)))):
        replace(Contest(), **terms)


def test_without_weight_there_is_nobody():
    assert against(Contest(adversarial=0.0)) == {}
    assert set(against(Contest())) == {NAME}


GANS = [
    ("pix2pixhd_retouch", {}),
    ("pix2pixhd_retouch", {"gan": "hinge", "spectral_norm": True, "gradient_penalty": 10.0, "scales": 2}),
    ("pix2pix", {}),
    ("cyclegan", {"ngf": 4}),
]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("name", "flags"), GANS)
def test_thirty_steps_stay_finite_and_move_everyone(name, flags, autocast):
    torch.manual_seed(0)
    network = find_network(name)
    options = {"levels": 4} if name == "pix2pix" else {}
    module = network.build(width=4, **options).train()
    lesson = network.teach(TASK, DATA, ndf=2, **flags)
    before = [p.detach().clone() for p in module.parameters()]
    history, players = turns(module, lesson, batch(16), 30, autocast=autocast)
    assert all(np.isfinite(value) for told in history for value in told.values())
    assert all(torch.isfinite(p).all() for player in players.values() for p in player.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert history[-1] != history[-2]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("input", "target"):
            (root / split / kind).mkdir(parents=True)
            for index in range(3):
                picture = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                PIL.Image.fromarray(picture).save(root / split / kind / f"{index}.png")
    return root


def train(store, pairs, name, *flags):
    """Six steps from the command line; the exit code, and the folder of the artifact if there is one."""
    words = ["train", "--teacher", name, "--width", 4, "--ndf", 2, "--data", pairs, "--store", store]
    words += ["--size", 32, "--batch", 2, "--steps", 6, "--workers", 0, "--precision", 32, "--checkpoint-every", 1]
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(word) for word in (*words, "--quiet", *flags)])
    return stopped.value.code, next(Path(store).glob("*/manifest.json"), Path()).parent


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("pix2pixhd_retouch", (), {"discriminator_gan", "discriminator_matching", "discriminator/loss"}),
        ("pix2pix", ("--levels", 6), {"discriminator_gan", "discriminator/loss"}),
        ("cyclegan", ("--ngf", 4), {"backward_cycle", "judge_b_gan", "backward/loss", "judge_a/loss", "judge_b/loss"}),
    ],
)
def test_both_sides_are_logged_and_a_killed_run_goes_on_bit_for_bit(tmp_path, pairs, monkeypatch, name, flags, told):
    code, whole = train(tmp_path / "whole", pairs, name, *flags)
    assert code == 0
    history = json.loads((whole / HISTORY).read_text())["steps"]
    assert {"loss", "labels", *told} <= set(history[0])
    assert len(history) == 6
    save = Loop.save

    def save_and_stop(loop):
        save(loop)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "save", save_and_stop)
        for kill in range(5):  # once inside each stage and between them
            assert train(tmp_path / "broken", pairs, name, *flags, *(["--resume"] if kill else []))[0] == 130
    code, broken = train(tmp_path / "broken", pairs, name, *flags, "--resume")
    assert code == 0
    assert sha256_of(broken / "weights.safetensors") == sha256_of(whole / "weights.safetensors")


def test_the_generator_is_pressed_by_its_rival(tmp_path, pairs):
    """With the pressure the first step's loss is more than that of the labels, and by just that much."""
    _, folder = train(tmp_path, pairs, "pix2pixhd_retouch", "--no-stages")
    first = json.loads((folder / HISTORY).read_text())["steps"][0]
    pressure = 0.01 * (first["discriminator_gan"] + 10 * first["discriminator_matching"])
    assert first["loss"] == pytest.approx(first["labels"] + pressure, rel=1e-5)
    assert pressure > 0
