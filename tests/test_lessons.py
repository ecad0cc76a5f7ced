"""Lessons in a real training run: phases, players beside the network, feeds, weights to start from, looks between."""

import json

import pytest
import torch
from torch import nn

from compress.core.networks import Network, find_network
from compress.core.store import HISTORY, Store
from compress.jobs.desk import stage
from compress.jobs.fit import fit
from compress.jobs.options import Fitting
from compress.jobs.plan import settle
from compress.jobs.players import settings_of
from compress.kit.lesson import Lesson, Phase, Rival
from compress.tasks import TASKS

TASK = TASKS.get("saliency")
STEPS = 6


class Net(nn.Module):
    """Two convolutions, the coarse one first in line to learn; counts how often it ran."""

    def __init__(self):
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.runs = 0

    def forward(self, image, shift=None):
        self.runs += 1
        features = self.coarse(image)
        return (self.fine(features if shift is None else features + shift),)


NETWORK = Network("u2netp", "saliency", lambda width=None: Net(), size=32, stride=1)


def train(tmp_path, lesson, *, options=None, network=NETWORK, name="net"):
    given = options or Fitting(
        store=tmp_path, data=("builtin",), size=32, steps=STEPS, batch=2, precision="32", workers=0
    )
    store = Store(tmp_path)
    data = TASK.open(["builtin"], "train")
    plan = settle(given, network, len(data), lesson.ema)
    planned = stage("train", given, data=data.fingerprint, resolved={"n": name, **settings_of(lesson)})
    artifact = fit(store, planned, given, plan, network, TASK, data, lambda *_: lesson, name, alone=not lesson.rivals)
    return store, artifact


def weights(store, artifact):
    from safetensors.torch import load_file

    return load_file(store.folder(artifact) / "weights.safetensors")


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    """Validation on the built-in 64 pictures is not what is tested here."""
    from unittest.mock import patch

    from compress.jobs import fit as module

    with patch.object(module, "_validate", lambda *_: {"loss": 1.0}):
        yield


@pytest.fixture(scope="module", autouse=True)
def any_network():
    from unittest.mock import patch

    from compress.jobs import fit as module

    with patch.object(module, "count_macs", lambda *_, **__: 0):
        yield


def trains(*names):
    def enter(module):
        for path, parameter in module.named_parameters():
            parameter.requires_grad_(path.split(".")[0] in names)

    return enter


def test_a_phase_trains_what_it_names_and_the_shares_split_the_steps(tmp_path):
    snapshots = {}

    def spying(name, enter):
        def entered(module):
            snapshots[name] = {path: p.detach().clone() for path, p in module.named_parameters()}
            enter(module)

        return entered

    phases = (
        Phase("one", 1 / 3, spying("one", trains("coarse"))),
        Phase("two", 1 / 3, spying("two", trains("fine"))),
        Phase("all", 1 / 3, spying("all", trains("coarse", "fine"))),
    )
    lesson = Lesson(TASK.loss, phases=phases)
    assert [lesson.phase_at(step, STEPS).name for step in range(STEPS)] == ["one", "one", "two", "two", "all", "all"]
    store, artifact = train(tmp_path, lesson)
    first, second, third, last = snapshots["one"], snapshots["two"], snapshots["all"], weights(store, artifact)

    def moved(before, after):
        return {path for path in before if not torch.equal(before[path], after[path])}

    assert moved(first, second) == {"coarse.weight", "coarse.bias"}
    assert moved(second, third) == {"fine.weight", "fine.bias"}
    assert moved(third, last) == set(first)


def test_a_run_killed_inside_a_phase_continues_in_it_bit_for_bit(tmp_path):
    def lesson(until=None):
        def enter(module):
            trains("fine")(module)
            if until:
                raise KeyboardInterrupt

        return Lesson(TASK.loss, ema=0.9, phases=(Phase("a", 0.5, trains("coarse")), Phase("b", 0.5, enter)))

    whole = train(tmp_path / "whole", lesson())
    given = Fitting(store=tmp_path / "cut", data=("builtin",), size=32, steps=STEPS, batch=2, precision="32", workers=0,
                    checkpoint_every=1, resume=True)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", lesson(until=1), options=given)
    cut = train(tmp_path / "cut", lesson(), options=given)
    one, other = weights(*whole), weights(*cut)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_whoever_does_not_move_gets_no_gradient_and_keeps_what_its_phase_froze(tmp_path):
    seen = []

    def loss(cast, outputs, batch):
        assert not any(output.requires_grad for output in outputs)
        seen.append("rival")
        verdict = cast["judge"](outputs[0])
        with torch.no_grad():
            again = cast["network"](batch["image"])[0]
        return {"loss": verdict.square().mean() + again.mean() * 0}

    def pressure(cast, outputs, batch):
        seen.append("network")
        verdict = cast["judge"](outputs[0])
        assert verdict.requires_grad  # through the outputs
        return {"loss": 0.01 * verdict.mean(), "verdict": verdict.detach().mean()}

    judges = []

    def build():
        judges.append(nn.Conv2d(1, 1, 3))
        return judges[0]

    before = {}

    def enter(module):
        trains("fine")(module)
        before["coarse"] = module.coarse.weight.detach().clone()

    lesson = Lesson(TASK.loss, {"judge": Rival(build, loss, pressure, {})}, (Phase("only", 1.0, enter),))
    store, artifact = train(tmp_path, lesson)
    assert seen == ["network", "rival"] * STEPS
    assert torch.equal(weights(store, artifact)["coarse.weight"], before["coarse"])
    history = json.loads((store.folder(artifact) / HISTORY).read_text())
    assert {"loss", "labels", "judge_verdict", "judge/loss"} <= set(history["steps"][0])
    assert [entry["step"] for entry in history["steps"]] == list(range(1, STEPS + 1))


def test_a_rival_may_take_a_gradient_inside_its_loss_in_half_precision_too(tmp_path):
    """As gradient penalties do (Mescheder et al. 2018)."""

    def loss(cast, outputs, batch):
        picture = outputs[0].float().requires_grad_()
        (slope,) = torch.autograd.grad(cast["judge"](picture).float().sum(), picture, create_graph=True)
        return {"loss": slope.square().sum()}

    rival = Rival(
        lambda: nn.Conv2d(1, 1, 3), loss, lambda cast, outputs, batch: {"loss": outputs[0].float().mean() * 0}, {}
    )
    given = Fitting(store=tmp_path, data=("builtin",), size=32, steps=2, batch=2, precision="bf16", workers=0)
    store, artifact = train(tmp_path, Lesson(TASK.loss, {"judge": rival}), options=given)
    history = json.loads((store.folder(artifact) / HISTORY).read_text())["steps"]
    assert 0 < history[1]["judge/loss"] < history[0]["judge/loss"]


def test_the_network_is_prepared_once_and_fed_what_the_lesson_says(tmp_path):
    prepared = []

    def prepare(module):
        prepared.append(module)
        nn.init.constant_(module.fine.bias, 7.0)
        module.fine.bias.requires_grad_(False)

    shifts = []

    def feed(batch):
        shifts.append(torch.full((1, 4, 1, 1), 0.5))
        return batch["image"], shifts[-1]

    store, artifact = train(tmp_path, Lesson(TASK.loss, prepare=prepare, feed=feed))
    assert len(prepared) == 1
    assert len(shifts) == STEPS
    assert weights(store, artifact)["fine.bias"].item() == 7.0


def test_settings_tell_what_decides_and_nothing_for_a_plain_loss():
    rival = Rival(nn.Identity, lambda *_: {}, lambda *_: {}, {"kind": "lsgan"})
    lesson = Lesson(TASK.loss, {"judge": rival}, (Phase("a", 1.0, trains()),), settings={"quality": "iou"})
    assert settings_of(Lesson(TASK.loss)) == {}
    assert json.loads(json.dumps(settings_of(lesson))) == {
        "lesson": {"quality": "iou"},
        "rivals": {"judge": {"kind": "lsgan"}},
        "phases": [["a", 1.0]],
    }


def test_looks_between_are_kept_with_pictures_and_change_nothing(tmp_path):
    plain = train(tmp_path / "plain", Lesson(TASK.loss))
    given = Fitting(
        store=tmp_path / "seen",
        data=("builtin",),
        size=32,
        steps=STEPS,
        batch=2,
        precision="32",
        workers=0,
        validate_every=4,
    )
    seen = train(tmp_path / "seen", Lesson(TASK.loss), options=given)
    one, other = weights(*plain), weights(*seen)
    assert all(torch.equal(one[key], other[key]) for key in one)
    store, artifact = seen
    folder = store.folder(artifact)
    looks = json.loads((folder / HISTORY).read_text())["validations"]
    assert [look["step"] for look in looks] == [4, 6]
    length = len(TASK.open(["builtin"], "train"))
    assert looks[0]["epoch"] == pytest.approx(4 * 2 / length)
    assert {"loss", "mae", "maxf"} <= set(looks[0])
    steps = sorted(path.name for path in (folder / "pictures").iterdir())
    assert steps == ["photo", "step-000004", "step-000006", "truth"]
    assert (folder / "pictures" / "step-000004" / "00.mask.png").is_file()
    assert artifact.bytes == sum(file.bytes for file in artifact.files if file.path == "weights.safetensors")


def test_every_network_s_lesson_can_be_made_and_told():
    from compress.core.networks import STUDENTS, TEACHERS
    from compress.jobs.flags import functions_of, take

    for name in [*TEACHERS.names(), *STUDENTS.names()]:
        network = find_network(name)
        task = TASKS.get(network.task)
        from compress.core.options import Common

        _, teach_with = take(functions_of(network, task), (), name, Common()).values
        data = task.open(["builtin"], "train")
        lesson = network.teach(task, data, **teach_with) if network.teach else task.teach(data, **teach_with)
        json.dumps(settings_of(lesson))
        assert not lesson.phases or sum(phase.share for phase in lesson.phases) == pytest.approx(1)
