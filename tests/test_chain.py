"""Chains of stages: what a file may say, what each stage is given, what is not made twice."""

import pytest
import torch
from test_distill import discs
from tiny_store import publish, record, season

from compress.cli import app
from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.core.store import Store
from compress.jobs.chain import read_chain

WHOLE = """
seed = 3
quiet = true

[[stage]]
run = "prune"
model = "teacher"
ratio = 0.25
round-to = 1
target = "none"

[[stage]]
run = "distill"
as = "student"
teacher = "teacher"
T = "2"
steps = 2
size = 32
batch = 2
workers = 0
precision = "32"

[[stage]]
run = "quantize"
dtype = "int8w"
force = true
"""


def run(*words):
    return app([str(word) for word in words], exit_on_error=False, print_error=False, result_action="return_value")


@pytest.fixture
def store(tmp_path):
    torch.manual_seed(0)
    store = Store(tmp_path / "artifacts")
    net = find_network("u2netp").build(width=4)
    season(net)
    data = [str(discs(tmp_path / "discs"))]
    publish(store, record("teacher", network_options={"width": 4}, options={"data": data}), net)
    return store


def written(tmp_path, text):
    path = tmp_path / "chain.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_each_stage_goes_on_from_the_one_before_and_nothing_is_made_twice(store, tmp_path):
    path = written(tmp_path, WHOLE)
    last = run("run", path, "--store", store.root)
    by_method = {artifact.method: artifact for artifact in store.artifacts()}
    teacher, pruned, student, small = (by_method[name] for name in ("train", "prune", "distill", "quantize"))
    assert pruned.parent == teacher.id
    assert (student.parent, student.teacher) == (pruned.id, teacher.id)
    assert small.parent == student.id == last.parent
    assert student.widths == pruned.widths != {}
    assert student.parameters == pruned.parameters < 0.8 * find_network("u2netp").parameters
    assert {artifact.seed for artifact in (student,)} == {3}
    count = len(store.artifacts())
    assert run("run", path, "--store", store.root).id == last.id
    assert len(store.artifacts()) == count
    # a later stage alone is made anew where only it changed
    run("run", written(tmp_path, WHOLE.replace('"int8w"', '"float16"')), "--store", store.root)
    assert len(store.artifacts()) == count + 1


def test_a_dry_run_says_every_command_and_makes_nothing(store, tmp_path, capsys):
    run("run", written(tmp_path, WHOLE), "--store", store.root, "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["prune", "distill", "quantize"]
    assert "--student @" in lines[1]
    assert "--round-to 1" in lines[0]
    assert len(store.artifacts()) == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('run = "prune"', 'run = "prun"', "did you mean 'prune'"),
        ('run = "prune"', 'run = "run"', "methods: "),
        ("seed = 3", "seeds = 3", "did you mean 'seed'"),
        ('as = "student"', 'as = "prune"', "two stages are called 'prune'"),
        ('teacher = "teacher"', 'teacher = "@pruned"', "no stage before it is called so, did you mean 'prune'"),
        ('model = "teacher"', 'model = "@"', "no stage before it"),
        ("[[stage]]", "[[stages]]", "has no stages"),
        ("ratio = 0.25", "ratio = ", "no TOML"),
    ],
)
def test_a_file_that_can_not_be_is_refused_before_anything_runs(old, new, words, tmp_path):
    with pytest.raises(UsageError, match="(?s)" + words):
        read_chain(written(tmp_path, WHOLE.replace(old, new)))


def test_a_wrong_value_is_told_as_the_stages_own_mistake(store, tmp_path):
    with pytest.raises(UsageError, match="compress prune"):
        run("run", written(tmp_path, WHOLE.replace("ratio = 0.25", 'ratio = "half"')), "--store", store.root)


def test_no_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="no file"):
        run("run", tmp_path / "nothing.toml")
