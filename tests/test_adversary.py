"""Training against a discriminator: its structure, both sides' losses, and the loop with two players."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from compress.core.networks import find_network
from compress.core.store import HISTORY, Store
from compress.jobs.desk import stage
from compress.jobs.fit import fit
from compress.jobs.plan import settle
from compress.kit.adversary import Patches, Scales, feature_matching, fooling, judging
from compress.kit.graph import count_parameters
from compress.kit.loop import Loop
from compress.methods.train import Options
from compress.tasks import TASKS
from compress.tasks.retouch import discriminator

TASK = TASKS.get("retouch")


def verdicts(seed, scales=3):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(2, 4, 8 >> n, 8 >> n, generator=generator) for _ in range(3)] for n in range(scales)]


def batch(side=32):
    generator = torch.Generator().manual_seed(0)
    image, target = torch.randn(2, 3, side, side, generator=generator), torch.rand(2, 3, side, side)
    return {"image": image, "target": target}


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


@pytest.mark.parametrize("kind", ["lsgan", "hinge"])
def test_both_sides_minimise_what_loops_say(kind):
    real, fake = verdicts(1), verdicts(2)
    judged = fooled = 0.0
    for r, f in zip(real, fake, strict=True):
        a, b = r[-1].numpy(), f[-1].numpy()
        if kind == "lsgan":
            judged += (((a - 1) ** 2).mean() + (b**2).mean()) / 2
            fooled += ((b - 1) ** 2).mean()
        else:
            judged += np.maximum(0, 1 - a).mean() + np.maximum(0, 1 + b).mean()
            fooled += -b.mean()
    assert judging(real, fake, kind).item() == pytest.approx(judged, rel=1e-5)
    assert fooling(fake, kind).item() == pytest.approx(fooled, rel=1e-5)


def test_feature_matching_is_the_l1_of_all_layers_but_the_opinion():
    real, fake = verdicts(1), verdicts(2)
    layers = [(r[n], f[n]) for r, f in zip(real, fake, strict=True) for n in (0, 1)]
    wanted = sum((a - b).abs().mean().item() for a, b in layers)
    assert feature_matching(real, fake).item() == pytest.approx(wanted, rel=1e-5)
    assert feature_matching(real, real).item() == 0


@pytest.mark.parametrize("kind", ["lsgan", "hinge"])
def test_a_discriminator_learns_to_tell_and_presses_the_picture(kind):
    torch.manual_seed(0)
    rival, given = discriminator(ndf=4, kind=kind), batch()
    judge = rival.build()
    raw = torch.zeros(2, 3, 32, 32, requires_grad=True)
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = rival.loss(judge, [raw.detach()], given)["loss"]
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]
    parts = rival.pressure(judge, [raw], given)
    parts["loss"].backward()
    assert raw.grad.abs().sum() > 0
    assert set(parts) == {"loss", "gan", "matching"}


def test_only_teachers_have_a_rival():
    assert set(TASK.rivals(find_network("pix2pixhd_retouch"))) == {"discriminator"}
    assert TASK.rivals(find_network("retouch_small")) == {}
    assert TASKS.get("saliency").rivals(find_network("u2net_big")) == {}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("input", "target"):
            (root / split / kind).mkdir(parents=True)
            for index in range(3):
                picture = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(picture).save(root / split / kind / f"{index}.png")
    return root


def train(root, pairs, **options):
    """Train a narrow pix2pixHD against a narrow discriminator; weights and history."""
    given = Options(
        teacher="pix2pixhd_retouch", data=(str(pairs),), store=root, size=32, batch=2, steps=4, workers=0,
        precision="32", device="cpu", checkpoint_every=2, quiet=True, **options,
    )  # fmt: skip
    network, store = find_network("pix2pixhd_retouch"), Store(root)
    data = TASK.open(given.data, "train")
    plan, planned = settle(given, network, len(data)), stage("train", given, data=data.fingerprint)
    rivals = {"discriminator": discriminator(ndf=4)}
    artifact = fit(
        store, planned, given, plan, network, TASK, data, lambda _: TASK.loss, "net", {"width": 8}, rivals=rivals
    )
    return artifact.files[0].sha256, json.loads((store.folder(artifact) / HISTORY).read_text())


def test_both_players_move_are_logged_and_resume_bit_for_bit(tmp_path, pairs, monkeypatch):
    weights, history = train(tmp_path / "whole", pairs)
    assert {"loss", "labels", "discriminator_gan", "discriminator_matching", "discriminator/loss"} <= set(history[0])
    assert len({entry["discriminator/loss"] for entry in history}) == 4
    save = Loop.save

    def save_and_stop(loop):
        save(loop)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "broken", pairs)
    assert train(tmp_path / "broken", pairs, resume=True)[0] == weights


def test_the_generator_is_pressed_by_its_rival(tmp_path, pairs):
    """With the pressure the first step's loss is more than that of the labels, and by just that much."""
    _, history = train(tmp_path, pairs)
    first = history[0]
    pressure = 0.01 * (first["discriminator_gan"] + 10 * first["discriminator_matching"])
    assert first["loss"] == pytest.approx(first["labels"] + pressure, rel=1e-5)
    assert pressure > 0
