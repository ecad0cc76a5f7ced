"""The command that distils: who teaches, who learns, what is compared, what is kept between runs."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from tiny_store import publish, record, season

from compress.cli import app
from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import find_network
from compress.core.store import HISTORY, Store
from compress.jobs.distill import read_temperatures
from compress.jobs.models import load_module
from compress.kit.data.batches import stream

QUICK = {"--steps": 3, "--size": 32, "--batch": 2, "--workers": 0, "--precision": 32, "--teacher": "teacher"}


def run(*words):
    return app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")


def discs(root):
    """Twelve photos of a disc on noise, with masks."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    for split, count in (("train", 8), ("val", 2), ("test", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            y, x = rng.integers(12, 28, 2)
            mask = ((rows - y) ** 2 + (columns - x) ** 2 < 81)[..., None]
            photo = np.where(mask, [200, 60, 40], rng.integers(0, 160, (40, 48, 3))).astype(np.uint8)
            PIL.Image.fromarray(photo).save(root / split / "images" / f"{number}.png")
            PIL.Image.fromarray((mask[..., 0] * 255).astype(np.uint8)).save(root / split / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a teacher of 8 channels; every test makes students of its own in it."""
    torch.manual_seed(0)
    store = Store(tmp_path_factory.mktemp("distil"))
    data = discs(tmp_path_factory.mktemp("discs"))
    net = find_network("u2netp").build(width=8)
    season(net)
    publish(store, record("teacher", options={"data": [str(data)]}), net)
    return store


def distil(store, *words, student="u2net_small"):
    """Run the command quickly; ``words`` come after, and instead of, the flags that make it quick."""
    given = [str(word) for word in words]
    quick = {"--student": student, "--store": store.root, **QUICK}
    plain = [word for flag, value in quick.items() if flag not in given for word in (flag, value)]
    return run("distill", *plain, "--quiet", *given)


def state(store, artifact):
    return load_module(store, artifact).state_dict()


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_several_temperatures_make_one_student_each_and_name_the_best_last(store, capsys):
    best = distil(store, "--width", 4, "--T", "1,2,7", "--name", "sweep")
    printed = capsys.readouterr().out.split()
    made = [a for a in store.artifacts() if a.name == "sweep"]
    assert sorted(a.options["temperature"] for a in made) == [1, 2, 7]
    assert printed[-1] == best.id
    assert set(printed) == {a.id for a in made}
    assert best.metrics["loss"] == min(a.metrics["loss"] for a in made)
    weights = [state(store, a) for a in made]
    assert not equal(weights[0], weights[1])
    assert not equal(weights[1], weights[2])


@pytest.mark.parametrize("text", ["0", "-1", "two", "1,", "1,1", "nan", "inf", "1;2"])
def test_a_temperature_that_can_not_be_is_refused(text):
    with pytest.raises(UsageError, match="--T is"):
        read_temperatures(text)


def test_the_same_is_found_again_and_another_recipe_is_not_the_same(store):
    first = distil(store, "--width", 4)
    assert distil(store, "--width", 4).id == first.id
    assert distil(store, "--width", 4, "--cache", "off", "--cache-bytes", "10MB").id == first.id
    other = distil(store, "--width", 4, "--recipe", "saliency-taps")
    assert other.id != first.id
    assert other.name == "u2net_small-saliency-taps-T2"


def test_a_recipe_of_the_users_counts_by_what_it_says_not_by_its_name(store, tmp_path):
    text = 'about = "x"\ntasks = ["saliency"]\n[terms.kl]\nweight = 2.0\n'
    (tmp_path / "one.toml").write_text(text)
    (tmp_path / "two.toml").write_text("# the same\n" + text)
    (tmp_path / "three.toml").write_text(text.replace("2.0", "3.0"))
    ids = [distil(store, "--width", 4, "--recipe", tmp_path / f"{name}.toml").id for name in ("one", "two", "three")]
    assert ids[0] == ids[1] != ids[2]


def test_adaptors_learn_and_are_gone_after(store):
    made = distil(store, "--width", 4, "--recipe", "saliency-taps", "--again", "--name", "taps")
    plain = find_network("u2net_small").build(width=4)
    assert state(store, made).keys() == plain.state_dict().keys()
    steps = json.loads((store.folder(made) / HISTORY).read_text())["steps"]
    assert {"loss", "kl", "hard", "iou", "channels"} <= steps[0].keys()


def test_a_killed_run_with_adaptors_goes_on_bit_for_bit(store, tmp_path):
    """Its checkpoint holds the adaptors too: from fresh ones the weights would differ."""
    line = ("--width", 4, "--recipe", "saliency-taps", "--checkpoint-every", "2")
    whole = distil(store, *line, "--name", "whole")
    import compress.jobs.fit as fit_module

    real = fit_module._publish
    try:
        fit_module._publish = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            distil(store, *line, "--name", "cut", "--again")
    finally:
        fit_module._publish = real
    (run_folder,) = (store.root / "runs").iterdir()
    checkpoint = torch.load(run_folder / "checkpoint.pt", weights_only=True)
    assert checkpoint["aids"]["network"]
    cut = distil(store, *line, "--name", "cut", "--again", "--resume")
    assert equal(state(store, whole), state(store, cut))


def test_kept_answers_change_nothing(store):
    line = ("--width", 4, "--patterns", 1, "--steps", 12)
    kept = distil(store, *line, "--cache", "on", "--name", "kept", "--again")
    assert any((store.root / "cache" / "answers").rglob("answers.f16"))
    asked = distil(store, *line, "--cache", "off", "--name", "asked", "--again")
    assert equal(state(store, kept), state(store, asked))


def test_patterns_repeat_after_as_many_epochs_and_not_before():
    draws = [draw for step in range(12) for draw in stream(4, 2, 0, step, patterns=2)]
    epochs = [sorted((d.index, d.seed, d.pattern) for d in draws[4 * k : 4 * k + 4]) for k in range(6)]
    assert epochs[0] == epochs[2] == epochs[4]
    assert epochs[1] == epochs[3] == epochs[5]
    assert {seed for _, seed, _ in epochs[0]}.isdisjoint(seed for _, seed, _ in epochs[1])
    order = [[d.index for d in draws[4 * k : 4 * k + 4]] for k in range(6)]
    assert len({tuple(o) for o in order}) > 1  # an epoch's order is its own


def test_the_student_starts_from_its_teachers_channels(store):
    """One step at a rate of next to nothing: what it has is what it started from."""
    line = ("--width", 8, "--lr", "1e-12", "--steps", 1, "--init", "teacher")
    made = distil(store, *line, student="u2netp")
    teacher, student = (load_module(store, a) for a in (store.get("teacher"), made))
    for name, weight in teacher.named_parameters():
        torch.testing.assert_close(student.get_parameter(name), weight, rtol=0, atol=1e-6)


def test_an_artifact_can_be_the_student(store):
    first = distil(store, "--width", 4)
    line = ("--lr", "1e-12", "--steps", 1)
    second = distil(store, *line, student=first.id)
    assert second.parent == first.id
    assert second.network_options == {"width": 4}
    for name, weight in load_module(store, first).named_parameters():
        torch.testing.assert_close(load_module(store, second).get_parameter(name), weight, rtol=0, atol=1e-6)


def test_photos_without_labels_teach_alone_and_beside_others(store, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        photo = PIL.Image.fromarray(rng.integers(0, 256, (40, 52, 3), dtype=np.uint8))
        photo.save(tmp_path / f"{number}.png")
    line = ("--width", 4, "--recipe", "saliency-unlabelled", "--unlabelled", tmp_path, "--batch", 4)
    alone = distil(store, *line)
    steps = json.loads((store.folder(alone) / HISTORY).read_text())["steps"]
    assert "hard" not in steps[0]
    both = distil(store, *line, "--data", store.get("teacher").options["data"][0])
    steps = json.loads((store.folder(both) / HISTORY).read_text())["steps"]
    assert any(step["hard"] > 0 for step in steps)
    assert both.data != alone.data


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--taps", "stage1"), "compares no feature maps"),
        (("--recipe", "saliency-taps", "--taps", "stage1=stage2=stage3"), "wanted student.path=teacher.path"),
        (("--recipe", "saliency-taps", "--taps", "stage99"), "no part 'stage99'"),
        (("--recipe", "segmentation"), "is for segmentation"),
        (("--recipe", "salency"), "did you mean"),
        (("--cache", "on"), "--patterns 4"),
        (("--patterns", "-1"), "must be 0 or more"),
        (("--weights", "x.pth"), "package.module:function"),
        (("--perceptor", "x.pth"), "looks through none"),
        (("--recipe", "retouch-omgd-vgg"), "is for retouch"),
        (("--cache-bytes", "many", "--patterns", "1"), "wanted a size"),
        (("--unlabelled", "nowhere"), "nowhere"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_trained(words, wanted, store):
    from compress.core.errors import CompressError

    with pytest.raises(CompressError, match=wanted):
        distil(store, "--width", 4, *words)


def test_a_dry_run_makes_nothing(store, capsys):
    before = len(store.artifacts())
    assert distil(store, "--width", 4, "--dry-run", "--T", "3", "--recipe", "saliency-ssim") is None
    assert "recipe = " in capsys.readouterr().out
    assert len(store.artifacts()) == before


def test_a_teacher_that_was_never_trained_says_how(tmp_path):
    with pytest.raises(ArtifactError, match="compress train --teacher u2net_big"):
        run("distill", "--teacher", "u2net_big", "--store", tmp_path)


def test_a_users_own_teacher_and_student_need_nothing_of_ours(store, tmp_path, monkeypatch):
    """The lines of the README: two functions in a package, and the weights of one."""
    package = tmp_path / "theirnets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "from torch import nn\n"
        "def net(width):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))\n"
        "def teacher():\n    return net(8)\n"
        "def student():\n    return net(4)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from theirnets.nets import teacher

    torch.manual_seed(1)
    torch.save(teacher().state_dict(), tmp_path / "teacher.pth")
    data = store.get("teacher").options["data"][0]
    line = ("--teacher", "theirnets.nets:teacher", "--weights", tmp_path / "teacher.pth", "--data", data)
    made = distil(store, *line, student="theirnets.nets:student")
    assert (made.kind, made.network, made.name) == ("student", "theirnets.nets:student", "nets-student-T2")
    assert store.get(made.teacher).network == "theirnets.nets:teacher"
    assert load_module(store, made)(torch.zeros(1, 3, 16, 16))[0].shape == (1, 1, 16, 16)
