"""Recipes: the files that ship, files that can't be, and what a recipe says of itself."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.core.networks import STUDENTS
from compress.kit.distill.recipe import FOLDER, default_recipe, read_recipe, recipe_names
from compress.kit.distill.taps import Adaptors, match_taps
from compress.kit.distill.view import Pair, View
from compress.kit.graph import Taps
from compress.tasks import TASKS

SIDE = 32
SHIPPED = [(task, name) for task in TASKS.names() for name in recipe_names(task)]
GOOD = 'tasks = ["saliency"]\n[terms.kl]\nweight = 1.0\n'


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path, text, task="saliency"):
    return read_recipe(write(tmp_path, text), task)


# -- what ships


def test_every_shipped_file_is_a_recipe_of_some_task():
    assert {name for _, name in SHIPPED} == {path.stem for path in FOLDER.glob("*.toml")}
    assert len(SHIPPED) >= 19


@pytest.mark.parametrize(("task", "name"), SHIPPED)
def test_shipped_recipes_say_what_they_are_and_weigh_every_term(task, name):
    recipe = read_recipe(name, task)
    assert recipe.name == name
    assert 20 < len(recipe.about) < 110
    assert all(term.weight > 0 for term in recipe.terms)
    assert json.loads(json.dumps(recipe.settings())) == recipe.settings()
    if name != "mse":
        assert (
            "20" in (FOLDER / f"{name}.toml").read_text() or "hesis" in (FOLDER / f"{name}.toml").read_text()
        )  # source


@pytest.mark.parametrize("task", TASKS.names())
def test_the_default_of_a_task_needs_nothing_but_its_teacher(task):
    assert recipe_names(task)[0] == default_recipe(task) == task
    recipe = read_recipe(task, task)
    assert not recipe.needs_taps
    assert not recipe.needs_perceptor
    assert not recipe.needs_labels
    assert recipe.tempered
    assert not read_recipe("mse", task).tempered


def test_the_recipes_that_were_promised_are_there():
    wanted = {
        "saliency": {"saliency", "saliency-taps", "saliency-ssim", "saliency-unlabelled", "mse"},
        "segmentation": {"segmentation", "segmentation-cwd", "segmentation-balanced", "mse"},
        "retouch": {"retouch", "retouch-omgd", "retouch-omgd-vgg", "retouch-kernel", "retouch-wavelet", "mse"},
        "color": {"color", "color-kernel", "mse"},
        "membrane": {"membrane", "membrane-taps", "mse"},
    }
    assert {task: set(recipe_names(task)) for task in wanted} == wanted


def test_they_say_what_they_need():
    assert read_recipe("saliency-taps", "saliency").needs_taps
    assert read_recipe("saliency-taps", "saliency").adapted
    assert read_recipe("retouch-kernel", "retouch").needs_taps
    assert not read_recipe("retouch-kernel", "retouch").adapted  # widths play no part
    assert read_recipe("retouch-omgd-vgg", "retouch").needs_perceptor
    assert not read_recipe("segmentation-cwd", "segmentation").tempered  # T = 4 is its own
    assert read_recipe("segmentation-cwd", "segmentation").settings()["terms"]["channels"]["T"] == 4.0


def seen_by(network, paths, image):
    with Taps(network, paths) as seen:
        outputs = network(image)
    return outputs, [seen[path] for path in paths]


def perceptor(picture):
    kernel = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    return [F.relu(F.conv2d(picture, kernel, padding=1))]


def labels_of(task):
    generator = torch.Generator().manual_seed(1)
    if task.nearest:
        return torch.randint(0, task.output.channels, (2, 1, SIDE, SIDE), generator=generator)
    channels = 3 if task.output.color == "ab" else task.output.channels
    return torch.rand((2, channels, SIDE, SIDE), generator=generator)


def lessons():
    """Every student against itself and against the next of its task, so that each learns and each teaches."""
    for task in TASKS.names():
        names = [name for name in STUDENTS.names() if STUDENTS.get(name).task == task]
        assert names, task
        for place, name in enumerate(names):
            yield from ((TASKS.get(task), name, other) for other in {name, names[(place + 1) % len(names)]})


LESSONS = sorted(lessons(), key=lambda lesson: (lesson[0].name, *lesson[1:]))


@pytest.mark.parametrize(
    ("task", "student", "teacher"), LESSONS, ids=[f"{t.name}-{student}-{teacher}" for t, student, teacher in LESSONS]
)
def test_every_student_learns_by_every_recipe_of_its_task(task, student, teacher):
    torch.manual_seed(0)
    mine, theirs = STUDENTS.get(student), STUDENTS.get(teacher)
    learner, master = mine.build(width=4).train(), theirs.build(width=6).eval().requires_grad_(False)
    channels = task.input.channels
    matched = match_taps(learner, master, SIDE, channels, mine.taps, theirs.taps)
    image = torch.rand((2, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    outputs, student_maps = seen_by(learner, [pair.student_path for pair in matched], image)
    with torch.no_grad():
        taught, teacher_maps = seen_by(master, [pair.teacher_path for pair in matched], image)
    adaptors = Adaptors(matched)
    adapted = adaptors(student_maps)
    pairs = [Pair(*maps, pair.name) for *maps, pair in zip(student_maps, teacher_maps, adapted, matched, strict=True)]
    batch = {"image": image, "target": labels_of(task), "labelled": torch.tensor([1.0, 0.0])}
    teacher_state = {key: value.clone() for key, value in master.state_dict().items()}
    for name in recipe_names(task.name):
        recipe = read_recipe(name, task.name)
        T = 2.0 if recipe.tempered and name != "retouch-omgd" else 1.0
        told = recipe.loss(View(task, outputs, taught, batch, pairs, T, perceptor))
        assert set(told) == {"loss", *(term.name for term in recipe.terms)} - absent(task, recipe, outputs, taught)
        assert all(torch.isfinite(value) for value in told.values()), name
        learner.zero_grad()
        told["loss"].backward(retain_graph=True)
        gradients = [p.grad for p in learner.parameters() if p.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients), name
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0, name
    assert all(torch.equal(value, teacher_state[key]) for key, value in master.state_dict().items())


def absent(task, recipe, outputs, taught):
    """Terms of features where the networks give none."""
    has = min(len(outputs), len(taught)) > len(task.levels(outputs))
    return set() if has else {term.name for term in recipe.terms if term.on == "features"}


# -- by name and by file


def test_an_unknown_name_lists_those_of_the_task():
    with pytest.raises(
        UsageError, match=r"unknown recipe for saliency 'saliency-tap', did you mean 'saliency-taps'"
    ) as caught:
        read_recipe("saliency-tap", "saliency")
    assert "saliency-ssim" in caught.value.hint
    assert "retouch" not in caught.value.hint


def test_a_recipe_of_another_task_is_refused():
    with pytest.raises(UsageError, match="'color-kernel' is for color, the task at hand is retouch") as caught:
        read_recipe("color-kernel", "retouch")
    assert "retouch-kernel" in caught.value.hint


def test_a_file_is_read_by_its_path(tmp_path):
    path = write(tmp_path, GOOD)
    for reference in (path, str(path)):
        recipe = read_recipe(reference, "saliency")
        assert recipe.name == str(path)
        assert [(term.name, term.loss, term.weight, term.T) for term in recipe.terms] == [("kl", "kl", 1.0, None)]
    with pytest.raises(UsageError, match="no recipe file"):
        read_recipe(tmp_path / "other.toml", "saliency")
    with pytest.raises(UsageError, match="no recipe file"):
        (tmp_path / "folder.toml").mkdir()
        read_recipe(str(tmp_path / "folder.toml"), "saliency")


def test_a_copy_of_a_shipped_file_decides_the_same(tmp_path):
    for task, name in SHIPPED:
        copy = read_recipe(write(tmp_path, (FOLDER / f"{name}.toml").read_bytes()), task)
        assert copy.settings() == read_recipe(name, task).settings()


def test_settings_tell_what_decides_and_nothing_else(tmp_path):
    plain = read(tmp_path, GOOD).settings()
    assert read(tmp_path, 'about = "other words"\n' + GOOD + "# a comment\n").settings() == plain
    assert read(tmp_path, 'taps = {a = "b"}\n' + GOOD).settings() == plain  # no term looks at taps
    changes = ["confidence = true", "T = 3"]
    assert all(read(tmp_path, GOOD + change).settings() != plain for change in changes)
    assert read(tmp_path, GOOD.replace("1.0", "2")).settings() != plain
    assert read(tmp_path, GOOD.replace("1.0", "1")).settings() == plain
    taps = GOOD + '[terms.channels]\nweight = 1\n[taps]\nstage1 = "stage2"\n"g1.back" = "a.b"\n'
    assert read(tmp_path, taps).settings()["taps"] == {"stage1": "stage2", "g1.back": "a.b"}
    assert read(tmp_path, taps).wanted == {"stage1": "stage2", "g1.back": "a.b"}
    assert read(tmp_path, GOOD).wanted is None


def test_two_terms_may_be_of_one_loss(tmp_path):
    text = (
        GOOD
        + '[terms.inner]\nloss = "channels"\nweight = 1\n[terms.outer]\nloss = "channels"\non = "outputs"\nweight = 3\n'
    )
    terms = read(tmp_path, text).terms
    assert [(term.name, term.loss, term.on) for term in terms][1:] == [
        ("inner", "channels", "taps"),
        ("outer", "channels", "outputs"),
    ]


# -- what can't be


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks = [", "is no TOML"),
        (b"\xff\xfe\x00", "is no TOML"),
        ("a = " + "[" * 5000, "is no TOML"),
        ("", "terms: found nothing"),
        ('tasks = ["saliency"]\nterms = 3\n', "terms: found 3, wanted a table"),
        ('tasks = ["saliency"]\n[terms]\nkl = 1\n', "terms.kl: found 1, wanted a table"),
        ("[terms.kl]\nweight = 1\n", "tasks: missing"),
        (GOOD.replace('["saliency"]', '"saliency"'), "tasks: found 'saliency', wanted names"),
        (GOOD.replace('["saliency"]', "[1]"), r"tasks: found \[1\]"),
        ("term = 3\n" + GOOD, "term: unknown key, did you mean 'terms'"),
        ("about = 3\n" + GOOD, "about: found 3, wanted a text"),
        ('taps = "all"\n' + GOOD, "taps: found 'all', wanted \"auto\" or a table"),
        ("taps = {}\n" + GOOD, "taps: found {}"),
        ("taps = {a = 1}\n" + GOOD, "taps: found {'a': 1}"),
        (GOOD.replace("terms.kl", "terms.loss"), "terms.loss: that name is taken"),
        (GOOD.replace("terms.kl", "terms.kll"), "unknown loss 'kll', did you mean 'kl'"),
        (GOOD + 'loss = "wave"', "terms.kl.loss: unknown loss 'wave', did you mean 'wavelet'"),
        (GOOD + "loss = 7", "terms.kl.loss: found 7, wanted a text"),
        (GOOD + "t = 2", "terms.kl.t: unknown key of kl.*known: loss, weight, T, confidence"),
        (GOOD + 'on = "taps"', "terms.kl.on: unknown key of kl"),
        (GOOD.replace("weight = 1.0", ""), "terms.kl.weight: missing"),
        (GOOD.replace("1.0", "-1"), "terms.kl.weight: found -1, wanted a number from 0"),
        (GOOD.replace("1.0", "nan"), "terms.kl.weight: found nan, wanted a finite number"),
        (GOOD.replace("1.0", "-inf"), "terms.kl.weight: found -inf, wanted a finite number"),
        (GOOD.replace("1.0", "1" + "0" * 400), "wanted a finite number"),
        (GOOD.replace("1.0", "1" + "0" * 5000), "is no TOML"),
        (GOOD.replace("1.0", "0x" + "f" * 9000), "found a number of thousands of digits, wanted a finite number"),
        (GOOD + "[terms.deep]\nweight = 1\nloss = [[0x" + "f" * 9000 + "]]", "terms.deep.loss: found"),
        (GOOD + "[terms." + "x" * 9000 + "]\n" + "y" * 9000 + " = 1", r"terms.x+\.\.\..loss: unknown loss"),
        ("z" * 9000 + " = 1\n" + GOOD, r"z+\.\.\.: unknown key"),
        (GOOD.replace("1.0", "true"), "terms.kl.weight: found true, wanted a number"),
        (GOOD.replace("1.0", '"1"'), "terms.kl.weight: found '1', wanted a number"),
        (GOOD.replace("1.0", "0"), "every weight is 0"),
        (GOOD + "T = 0", "terms.kl.T: found 0, wanted a number above 0"),
        (GOOD + "T = nan", "terms.kl.T: found nan"),
        (GOOD + "confidence = 1", "terms.kl.confidence: found 1, wanted true or false"),
        (GOOD + '[terms.iou]\nweight = 1\nof = "truth"', "terms.iou.of: found 'truth', wanted 'teacher' or 'labels'"),
        (GOOD + '[terms.kernel]\nweight = 1\non = "perceptor"', "terms.kernel.on: found 'perceptor', wanted 'taps' or"),
        (GOOD + "[terms.kernel]\nweight = 1\non = []", r"terms.kernel.on: found \[\]"),
        (GOOD + "[terms.kernel]\nweight = 1\nT = 2", "terms.kernel.T: unknown key of kernel"),
        (GOOD + "[terms.wavelet]\nweight = 1\nsteps = 0", "terms.wavelet.steps: found 0, wanted a whole number"),
        (GOOD + "[terms.wavelet]\nweight = 1\nsteps = true", "terms.wavelet.steps: found true"),
        (GOOD + '[terms.picture]\nweight = 1\nnorm = "l3"', "terms.picture.norm: found 'l3', wanted 'l1' or 'l2'"),
        (GOOD + '[terms.picture]\nweight = 1\nof = "labels"\nconfidence = true', "confidence: it is the teacher's"),
        (GOOD + '[terms.hard]\nweight = 1\nbalance = "all"', "terms.hard.balance: found 'all'"),
        ("# " + "x" * 70_000 + "\n" + GOOD, "is no recipe: found more than 65536 bytes"),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_what_can_t_be_is_refused_by_key_and_value(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        read(tmp_path, text)
    assert "mine.toml" in caught.value.what
    assert len(str(caught.value)) < 600


def test_everything_wrong_is_said_at_once(tmp_path):
    text = 'taks = ["saliency"]\n[terms.kl]\nweigth = 1\n[terms.hrad]\nweight = 1\n[terms.iou]\nweight = -2\n'
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    for part in (
        "taks: unknown key, did you mean 'tasks'",
        "weigth: unknown key of kl, did you mean 'weight'",
        "terms.kl.weight: missing",
        "unknown loss 'hrad'",
        "terms.iou.weight: found -2",
        "tasks: missing",
    ):
        assert part in caught.value.what


def test_zero_is_a_weight_beside_others(tmp_path):
    recipe = read(tmp_path, GOOD + "[terms.tv]\nweight = 0\n")
    assert [term.weight for term in recipe.terms] == [1.0, 0.0]


# -- what a recipe refuses at the first step


def logits(seed, channels=1):
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_labels_alone_need_labels(tmp_path):
    recipe = read(tmp_path, 'tasks = ["saliency"]\n[terms.hard]\nweight = 1\n')
    assert recipe.needs_labels
    with pytest.raises(UsageError, match="nothing to learn from here: hard need labels"):
        recipe.loss(View(TASKS.get("saliency"), [logits(0)], [logits(1)], {}))


@pytest.mark.parametrize("task", ["retouch", "color"])
def test_pictures_have_no_kl(tmp_path, task):
    recipe = read(tmp_path, f'tasks = ["{task}"]\n[terms.kl]\nweight = 1\n', task)
    channels = TASKS.get(task).output.channels
    with pytest.raises(UsageError, match="no meaning"):
        recipe.loss(View(TASKS.get(task), [logits(0, channels)], [logits(1, channels)], {}))


def test_a_temperature_that_softens_nothing_is_refused_but_not_one_of_the_recipe_s_own(tmp_path):
    task = TASKS.get("retouch")
    both = [logits(0, 3)], [logits(1, 3)]
    with pytest.raises(UsageError, match=r"T = 4 has no meaning here.*\(features\)"):
        read_recipe("retouch", "retouch").loss(View(task, *both, {}, (), 4.0))
    own = (
        GOOD.replace("saliency", "retouch")
        .replace("terms.kl", "terms.mse")
        .replace("weight", 'loss = "picture"\nweight')
    )
    own += '[terms.look]\nloss = "attention"\non = "features"\nT = 3\nweight = 1\n'
    told = read(tmp_path, own, "retouch").loss(View(task, *both, {}, (), 4.0))
    assert set(told) == {"loss", "mse"}


def test_a_teacher_of_other_classes_is_refused_by_every_recipe():
    task = TASKS.get("segmentation")
    view = View(task, [logits(0, 6)], [logits(1, 21)], {"target": torch.zeros(2, 1, 8, 8).long()})
    for name in recipe_names("segmentation"):
        with pytest.raises(UsageError, match="21"):
            read_recipe(name, "segmentation").loss(view)


def test_a_foreign_teacher_of_one_level_will_do():
    task = TASKS.get("saliency")
    student = [logits(i).requires_grad_() for i in range(4)]
    for name in ("saliency", "saliency-ssim", "saliency-unlabelled", "mse"):
        told = read_recipe(name, "saliency").loss(
            View(task, student, [logits(9)], {"target": logits(8).sigmoid()}, (), 2.0)
        )
        assert torch.isfinite(told["loss"])


# -- the wheel


def test_the_wheel_takes_the_recipes_along():
    root = Path(__file__).parents[1]
    table = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, globs in table.items()
        for pattern in globs
        for path in (root / package.replace(".", "/")).glob(pattern)
    }
    assert set(FOLDER.glob("*.toml")) <= shipped
