"""Answers to a "fake or real?" page summed up, against scipy and simulation."""

import json

import numpy as np
import pytest
from scipy import stats

from compress import cli
from compress.core.launch import launch
from compress.jobs.answers import clustered, last_of_each, read_sheet, wilson
from compress.jobs.turing import Model

MODELS = [Model("aaaa11112222", "first"), Model("bbbb11112222", "second")]


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


@pytest.mark.parametrize(("taken", "shown"), [(0, 3), (3, 3), (1, 6), (41, 72), (281, 492)])
def test_wilson_is_scipys(taken, shown):
    span = stats.binomtest(taken, shown).proportion_ci(method="wilson")
    ours = wilson(taken, shown)
    np.testing.assert_allclose([ours.value, ours.low, ours.high], [taken / shown, span.low, span.high], atol=1e-12)


def test_interval_over_people_covers_where_answers_hang_together():
    random = np.random.default_rng(0)
    covered = {"wilson": 0, "people": 0}
    for _ in range(400):
        own = random.beta(2, 2, 20)  # every person has a share of its own: mean 0.5
        pairs = [(int(random.binomial(12, p)), 12) for p in own]
        plain, ours = wilson(sum(p[0] for p in pairs), 240), clustered(pairs)
        assert ours.low <= plain.low and plain.high <= ours.high
        covered["wilson"] += plain.low <= 0.5 <= plain.high
        covered["people"] += ours.low <= 0.5 <= ours.high
    assert 0.92 <= covered["people"] / 400 <= 0.99
    assert covered["wilson"] / 400 < 0.85


def sheet(path, person, answers, finished="2026-01-01", **more):
    data = {"kind": "compress turing", "schema": 1, "page": "p", "task": "color", "person": person,
            "finished": finished, "models": [{"id": m.id, "name": m.name} for m in MODELS],
            "answers": [{"truth": t, "answer": a} for t, a in answers]} | more  # fmt: skip
    path.write_text(json.dumps(data))
    return path


def test_collect_sums_several_people_up(tmp_path, capsys):
    first, second = MODELS[0].id, MODELS[1].id
    sheet(tmp_path / "1.json", "x", [(first, "real"), (first, "fake"), (second, "fake"), ("real", "real")])
    sheet(tmp_path / "2.json", "y", [(first, "real"), (first, "real"), (second, "fake"), ("real", "fake")])
    sheet(
        tmp_path / "3.json", "y", [(first, "fake"), (first, "real"), (second, "real"), ("real", "real")], "2026-01-02"
    )
    assert run("turing", "--json", "--collect", *sorted(tmp_path.glob("*.json"))) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert "1 of 3 files are earlier answers of the same people" in err
    assert (told["people"], told["pages"], told["reported"]) == (2, 1, 0.5724)
    assert [(t["name"], t["taken"], t["shown"]) for t in told["tallies"]] == [
        ("first", 2, 4), ("second", 1, 2), ("real pictures", 2, 2)]  # fmt: skip
    assert run("turing", "--collect", tmp_path / "1.json", tmp_path / "2.json") == 0
    out = capsys.readouterr().out
    assert "3 of 4" in out and "57.24%" in out and "2 people" in out


def test_last_answers_count(tmp_path):
    files = [sheet(tmp_path / f"{i}.json", "x", [("real", "real")], f"2026-01-0{i}") for i in (2, 1)]
    assert [s.finished for s in last_of_each([read_sheet(file) for file in files])] == ["2026-01-02"]


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"kind": "compress turing", "schema": 9}', '{"kind": "x"}'])
def test_other_files_are_refused(tmp_path, capsys, text):
    (tmp_path / "a.json").write_text(text)
    assert run("turing", "--collect", tmp_path / "a.json") == 2
    err = capsys.readouterr().err
    assert "a.json" in err and err.count("\n") == 1
    sheet(tmp_path / "b.json", "x", [("nobody", "real")])
    assert run("turing", "--collect", tmp_path / "b.json") == 2
