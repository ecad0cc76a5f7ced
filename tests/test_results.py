"""The table of distillation: its plan, intervals, verdicts, what a half-finished store gives, and the peer's loss."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.results import peer, run
from benchmarks.results.book import make_pages
from benchmarks.results.claims import Side, judge
from benchmarks.results.plan import COMMANDS, Claim, family_names, jobs, read_family
from benchmarks.results.score import blocks
from benchmarks.results.statistics import METRICS, compare
from benchmarks.results.table import listing, markdown, record
from benchmarks.results.words import RECIPES, Setting, words
from compress.core.errors import CompressError, MissingExtraError, UsageError
from compress.core.networks import find_network
from compress.kit.data.classes import class_iou
from compress.kit.distill.recipe import read_recipe
from compress.kit.distill.view import View
from compress.tasks import TASKS

FAMILIES = family_names()


def made_up(stage, macs=100, bytes=1000):
    return SimpleNamespace(id=f"{stage:0>12.12}", macs=macs, bytes=bytes)


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("quick", [False, True], ids=["earnest", "quick"])
def test_every_stage_is_a_command_that_its_method_takes(name, quick, tmp_path):
    from compress.cli import app

    family, setting = read_family(name), Setting(tmp_path / "store", tmp_path, quick)
    for job in jobs(family, 3):
        made = {need: made_up(need) for need in job.stage.needs}
        line = words(job, family, setting, made, (job.temperature or 2.0) if job.stage.sweep else None)
        assert not any(word.startswith("@") for word in line)
        parser = peer.app if line[0] == "torchdistill" else app
        rest = line[1:] if line[0] == "torchdistill" else line
        _, bound, unused, *_ = parser.parse_known_args(rest)
        assert not unused, unused
        options = bound.arguments["options"]
        assert (options.seed, options.name, str(options.store)) == (job.seed, job.name, str(tmp_path / "store"))
        own = bound.arguments.get("own", ())
        assert own in ((), ("--width", "4")), own


@pytest.mark.parametrize("name", FAMILIES)
def test_students_and_their_competitors_are_trained_alike(name):
    family = read_family(name)
    alike = {stage.name: stage for stage in family.stages if stage.name in ("alone", "distilled", "mse", "kd", "cwd")}
    assert {"alone", "distilled", "mse", "cwd"} <= alike.keys()
    keys = ("size", "steps", "batch", "lr", "precision", "schedule", "patterns", "preset", "ema", "augment")
    assert len({tuple(stage.flags.get(key) for key in keys) for stage in alike.values()}) == 1
    student = alike["alone"].flags["teacher"]
    assert {stage.flags["student"] for stage in alike.values() if stage.run != "train"} == {student}
    assert not any(stage.once for stage in alike.values())
    assert find_network(student).task == find_network(family.stage("teacher").flags["teacher"]).task == name
    against = {claim.against for claim in family.claims if claim.not_worse}
    assert against >= alike.keys() - {"alone", "distilled"}, "a peer that nothing is claimed of"
    known = {"loss", "mae"} | ({"1-miou"} if name == "segmentation" else {"fade"} if name == "color" else set())
    assert {claim.metric for claim in family.claims} | set(family.metrics) <= known


@pytest.mark.parametrize("name", FAMILIES)
def test_recipes_of_the_plan_are_for_its_task(name):
    for stage in read_family(name).stages:
        recipe = stage.flags.get("recipe", name)
        read_recipe(RECIPES / recipe if recipe.endswith(".toml") else recipe, name)
        assert stage.run in COMMANDS


def test_names_of_jobs_are_all_different():
    names = [job.name for name in FAMILIES for job in jobs(read_family(name), 3) if job.temperature or job.seed]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[stage]]\nas = "a"\nrun = "destill"', "distill"),
        ('[[stage]]\nas = "a"\nrun = "train"\n[[stage]]\nas = "b"\nrun = "distill"\nteacher = "@c"', "@c"),
        ('[[stage]]\nas = "a"\nrun = "train"\n[[stage]]\nas = "a"\nrun = "train"', "one of its own"),
        ('[[stage]]\nas = "a"\nrun = "train"\n[[claim]]\nsays = "x"\nwho = "b"', "'b'"),
        ('[[stage]]\nas = "a"\nrun = "train"\n[[claim]]\nsays = "x"\nwho = "a"\nworse = 1', "worse"),
        ('odd = 1\n[[stage]]\nas = "a"\nrun = "train"', "odd"),
        ("[[stage]", "no TOML"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(text, said, tmp_path):
    (tmp_path / "odd.toml").write_text(f'about = "x"\ndata = []\nmetrics = []\n{text}')
    with pytest.raises(UsageError, match=said):
        read_family("odd", tmp_path)


# ---------------------------------------------------------------- intervals


def test_interval_of_images_and_seeds_is_that_of_the_closed_form():
    """D = seed effect + image effect: the variance of its mean is known, the seeds' part unbiased."""
    random = np.random.default_rng(3)
    images, seeds = random.normal(0, 1, 60), np.array([-0.1, 0.05, 0.2])
    base = random.normal(5, 2, (3, 60, 1))
    mine = base + (images + seeds[:, None])[..., None]
    found = compare(METRICS["loss"], mine, base).difference
    spread = np.sqrt(images.var() / 60 + seeds.var(ddof=1) / 3)
    centre = images.mean() + seeds.mean()
    assert found.value == pytest.approx(centre)
    # of three seeds there are ten different draws: the quantiles are those of a normal law but roughly
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)
    assert (found.high + found.low) / 2 == pytest.approx(centre, abs=0.2 * spread)


def test_what_makes_images_and_seeds_hard_for_both_cancels_out():
    random = np.random.default_rng(0)
    theirs = random.gamma(2.0, 3.0, (3, 40, 1)) + random.normal(0, 5, (3, 1, 1))
    found = compare(METRICS["loss"], theirs - 0.5, theirs).difference
    assert (found.low, found.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert found.beyond(0.0) == -1


def test_ratio_by_a_slow_loop():
    random = np.random.default_rng(5)
    mine, theirs = random.gamma(3, 1, (2, 30, 1)), random.gamma(4, 1, (1, 30, 1))
    found = compare(METRICS["mae"], mine, theirs).ratio
    ratios = []
    for _ in range(3000):
        drawn = [int(random.integers(30)) for _ in range(30)]
        means = [np.mean([mine[seed, i, 0] for i in drawn]) for seed in range(2)]
        wide = [np.mean(means) + np.sqrt(2) * (m - np.mean(means)) for m in means]
        mean = np.mean([wide[int(random.integers(2))] for _ in range(2)])
        ratios.append(mean / np.mean([theirs[0, i, 0] for i in drawn]))
    low, high = np.quantile(ratios, (0.025, 0.975))
    assert found.value == pytest.approx(mine.mean() / theirs.mean())
    assert (found.low, found.high) == (pytest.approx(low, rel=0.03), pytest.approx(high, rel=0.03))


def test_few_images_have_no_interval_and_no_verdict():
    scores = {seed: {"loss": np.ones((4, 1)) * (seed + 1)} for seed in range(3)}
    side = Side({seed: made_up("a") for seed in range(3)}, scores)
    claim = Claim("better", "a", "b", better=True)
    assert judge(claim, {"a": side, "b": side}, 3).verdict == "too few images to tell"


def test_class_error_is_one_minus_miou_over_all_pixels():
    random = np.random.default_rng(1)
    counts = random.integers(0, 50, (2, 12, 16)).astype(float)
    counts[..., 3::4] = counts[..., 12:] = 0.0  # a class nobody has
    found = METRICS["1-miou"].finish(counts.mean(axis=1))
    expected = [1 - np.nanmean(class_iou(counts[seed].sum(axis=0).reshape(4, 4))) for seed in range(2)]
    assert found == pytest.approx(expected)


# ---------------------------------------------------------------- verdicts


def side(values, *, once=False, macs=100, bytes=1000):
    scores = {seed: {"loss": np.asarray(value, float)[:, None]} for seed, value in enumerate(values)}
    return Side({seed: made_up("x", macs, bytes) for seed in scores}, scores, once)


@pytest.fixture
def sides():
    hard = np.random.default_rng(0).uniform(1, 3, 50)
    return {
        "alone": side([hard, hard * 1.01, hard * 0.99]),
        "distilled": side([hard * 0.8, hard * 0.81, hard * 0.79], bytes=2000),
        "like": side([hard, hard * 1.01, hard * 0.99]),
        "half": side([hard * 0.5]),
        "none": side([]),
        "teacher": side([hard * 0.7], once=True, macs=1000),
    }


@pytest.mark.parametrize(
    ("claim", "verdict"),
    [
        (Claim("", "distilled", "alone", ratio=0.9, better=True), "reached"),
        (Claim("", "distilled", "alone", ratio=0.7, better=True), "not reached"),
        (Claim("", "like", "alone", better=True), "not reached"),
        (Claim("", "like", "alone", not_worse=True), "reached"),
        (Claim("", "alone", "distilled", not_worse=True), "not reached"),
        (Claim("", "distilled", "teacher", ratio=1.2), "reached"),
        (Claim("", "distilled", "teacher", ratio=1.1), "not reached"),
        (Claim("", "distilled", "teacher", rise=10.0, bytes=1999), "not reached"),
        (Claim("", "distilled", "teacher", rise=10.0, bytes=2000), "reached"),
        (Claim("", "distilled", "teacher", ratio=2.0, macs=0.1), "reached"),
        (Claim("", "distilled", "teacher", ratio=2.0, macs=0.09), "not reached"),
        (Claim("", "half", "alone", better=True), "not run yet"),
        (Claim("", "distilled", "half", better=True), "not run yet"),
        (Claim("", "none", "alone", better=True), "not run yet"),
        (Claim("", "distilled", "none", better=True), "not run yet"),
        (Claim("", "distilled", "alone", metric="mae", better=True), "not run yet"),
    ],
)
def test_verdicts_follow_from_the_numbers(claim, verdict, sides):
    found = judge(claim, sides, 3)
    assert found.verdict == verdict, found.numbers


# ---------------------------------------------------------------- a store that is half done

PLAN = """
about = "Two networks"
data = ["segmentation/camvid"]
metrics = ["loss", "1-miou"]
[train]
size = 128
steps = 500
[[stage]]
as = "teacher"
run = "train"
teacher = "voc_unet"
once = true
[[stage]]
as = "alone"
run = "train"
teacher = "unet_slim"
[[stage]]
as = "distilled"
run = "distill"
teacher = "@teacher"
student = "unet_slim"
sweep = [1, 4]
[[claim]]
says = "better"
who = "distilled"
against = "alone"
better = true
"""


@pytest.fixture
def family(tmp_path):
    (tmp_path / "segmentation.toml").write_text(PLAN)
    return read_family("segmentation", tmp_path)


class Player:
    """Runs commands here, and is interrupted before the one after ``limit``."""

    def __init__(self, limit=100):
        self.limit, self.played = limit, []

    def __call__(self, program):
        if len(self.played) == self.limit:
            raise KeyboardInterrupt
        run.run_here(program)
        self.played.append(program)


def test_an_interrupted_plan_goes_on_and_its_table_grows(family, tmp_path):
    setting = Setting(tmp_path / "store", tmp_path, quick=True)
    nothing = make_pages(run.Desk(setting, 2, {}, None), [family])
    assert "Nothing has been run yet" in markdown(nothing, "")
    assert nothing[0].claims[0].verdict == "not run yet"

    first = Player(3)
    with pytest.raises(KeyboardInterrupt):
        list(run.Desk(setting, 2, {}, first).go(family))
    partial = make_pages(run.Desk(setting, 2, {}, None), [family])
    states = {o.job.name.removeprefix("segmentation-"): o.state for o in partial[0].outcomes}
    assert states == {"teacher-s0": "made", "alone-s0": "made", "alone-s1": "made", "distilled-T1-s0": "to do",
                      "distilled-T4-s0": "to do", "distilled-s1": "waits"}  # fmt: skip
    text = markdown(partial, "")
    assert "| alone |" in text and "| distilled" not in text and "Not there yet: segmentation-distilled-T1-s0" in text
    assert partial[0].claims[0].verdict == "not run yet"

    second = Player()
    pages = make_pages(run.Desk(setting, 2, {}, second), [family])
    assert len(second.played) == 3
    assert all(o.artifact for o in pages[0].outcomes)
    best = run.best_temperature(pages[0].outcomes, "distilled")
    tried = {o.job.temperature: o.artifact.metrics["loss"] for o in pages[0].outcomes if o.job.seed == 0
             and o.job.stage.name == "distilled"}  # fmt: skip
    assert tried[best] == min(tried.values()) and len(tried) == 2
    assert second.played[-1][second.played[-1].index("--T") + 1] == f"{best:g}"
    assert set(pages[0].sides["distilled"].scores) == {0, 1}
    assert pages[0].claims[0].verdict in ("reached", "not reached")
    assert f"distilled, T = {best:g} |" in markdown(pages, "")
    kept = json.loads(json.dumps(record(pages, {})))
    assert kept["families"]["segmentation"]["stages"]["distilled"]["against_alone"]["loss"]["seeds"] == 2
    assert "0 min to go" in listing(pages[0].outcomes)

    third = Player(0)  # nothing is left to make
    assert all(o.artifact for o in run.Desk(setting, 2, {}, third).go(family))


def test_a_stage_that_fails_holds_up_those_that_need_it_alone(family, tmp_path):
    def play(program):
        if "voc_unet" in program:
            raise CompressError("no")

    outcomes = list(run.Desk(Setting(tmp_path / "store", tmp_path, quick=True), 1, {}, play).go(family))
    assert [o.state for o in outcomes] == ["failed", "to do", "waits", "waits"]
    assert outcomes[0].why == "no" and outcomes[2].why == "waits for teacher"


def test_data_that_is_not_here_is_named(family, tmp_path):
    def play(program):
        raise AssertionError(program)

    pages = make_pages(run.Desk(Setting(tmp_path / "store", tmp_path / "nowhere"), 1, {}, play), [family])
    assert {o.state for o in pages[0].outcomes} == {"no data"}
    assert str(tmp_path / "nowhere" / "segmentation" / "camvid") in markdown(pages, "")


def test_a_command_that_fails_in_its_own_process_is_an_error(tmp_path):
    with pytest.raises(CompressError, match="exit code 4"):
        run.in_own_process(["show", "nothing", "--store", str(tmp_path)])


def test_blocks_of_a_page_cost_what_the_page_does():
    random = np.random.default_rng(0)
    picture = random.random((1, 128, 384), np.float32)
    target = (random.random((128, 384)) > 0.5).astype(np.uint8) * 255
    found = blocks("membrane", picture, target)
    assert len(found) == 3 and len(blocks("saliency", picture, target)) == 1
    losses = [np.mean((part[0] - truth / 255.0) ** 2) for part, truth in found]
    assert np.mean(losses) == pytest.approx(TASKS.get("membrane").score(picture, target)["loss"])


# ---------------------------------------------------------------- the peer


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchdistill.losses", None)
    with pytest.raises(MissingExtraError, match="torchdistill"):
        peer.kd_loss(1, 2.0, 0.5)


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("name", ["saliency", "membrane", "segmentation"])
def test_samples_of_the_peer_by_the_definition_of_its_loss(name, side):
    """The plain definition stands in for torchdistill's, so that what it is given is right wherever it is absent."""
    student, teacher, target = outputs(name, side)
    found = peer.kd(plain_kd(len(student), 3.0, 0.25), name, student, teacher, target)
    assert float(found) == pytest.approx(slow_kd(name, student, teacher, target, 3.0, 0.25), rel=1e-4)


@pytest.mark.parametrize("name", ["saliency", "membrane", "segmentation"])
def test_torchdistill_computes_what_the_definition_says(name):
    pytest.importorskip("torchdistill")
    student, teacher, target = outputs(name, 8)
    found = peer.kd(peer.kd_loss(len(student), 3.0, 0.25), name, student, teacher, target)
    assert float(found) == pytest.approx(slow_kd(name, student, teacher, target, 3.0, 0.25), rel=1e-4)


@pytest.mark.parametrize("name", ["saliency", "membrane"])
def test_the_peer_equals_our_terms_of_the_same_weights(name, tmp_path):
    """alpha hard + (1 - alpha) kl over all levels: so a recipe of ours is the same experiment."""
    (tmp_path / "kd.toml").write_text(
        f'about = "kd"\ntasks = ["{name}"]\n[terms.kl]\nweight = 0.75\n[terms.hard]\nweight = 0.25\n'
    )
    student, teacher, target = outputs(name, 8)
    view = View(TASKS.get(name), student, teacher, {"target": target}, temperature=3.0)
    ours = read_recipe(tmp_path / "kd.toml", name).loss(view)["loss"]
    theirs = peer.kd(plain_kd(len(student), 3.0, 0.25), name, student, teacher, target)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_the_peer_refuses_pictures():
    picture = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UsageError, match="retouch"):
        peer.kd(plain_kd(1, 2.0, 0.5), "retouch", [picture], [picture], picture)


def outputs(name, side):
    generator = torch.Generator().manual_seed(side)
    classes, levels = (5, 1) if name == "segmentation" else (1, 3)
    nets = [[torch.randn(2, classes, side, side, generator=generator) * 2 for _ in range(levels)] for _ in range(2)]
    if name == "segmentation":
        target = torch.randint(0, classes, (2, 1, side, side), generator=generator)
        target[0, 0, 0, :3] = 255
    else:
        target = (torch.rand(2, 1, side, side, generator=generator) > 0.5).float()
    return *nets, target


def plain_kd(count, T, alpha):
    """The formula of KDLoss's documentation, with torch's own losses, one for each level, equal weights."""

    def loss(both, model_losses, targets):
        assert not model_losses and len(both["student"]) == count
        total = 0.0
        for level, mine in both["student"].items():
            s, t = mine["output"], both["teacher"][level]["output"]
            soft = torch.nn.functional.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")
            hard = torch.nn.functional.cross_entropy(s, targets, ignore_index=255)
            total = total + (alpha * hard + (1 - alpha) * T**2 * soft) / count
        return total

    return loss


def slow_kd(name, student, teacher, target, T, alpha):
    """Pixel by pixel in plain Python floats."""
    total = 0.0
    for mine, theirs in zip(student, teacher, strict=True):
        soft, hard, known, pixels = 0.0, 0.0, 0, 0
        for n in range(mine.shape[0]):
            for y in range(mine.shape[2]):
                for x in range(mine.shape[3]):
                    s, t = logits(name, mine[n, :, y, x]), logits(name, theirs[n, :, y, x])
                    p, q = softmax(t / T), softmax(s / T)
                    soft += float(np.sum(p * np.log(p / q)))
                    pixels += 1
                    label = int(target[n, 0, y, x])
                    if label != 255:
                        hard -= float(np.log(softmax(s)[label]))
                        known += 1
        total += alpha * hard / known + (1 - alpha) * T * T * soft / pixels
    return total / len(student)


def logits(name, values):
    values = values.double().numpy()
    return values if name == "segmentation" else np.array([0.0, values[0] * (2 if name == "membrane" else 1)])


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


# ---------------------------------------------------------------- the bench


def test_the_bench_of_distillation_runs_and_compares_both_ways(tmp_path):
    from benchmarks.distilling import Bench, Case, told

    bench = Bench(Case("u2net_student", "u2netp", size=32, batch=2, width=4), tmp_path, turn=2)
    found = bench.measure(rounds=5)
    assert len(found) == 2
    for _, ratio, (mine, theirs) in found:
        assert ratio.value > 0 and ratio.low <= ratio.value <= ratio.high and mine > 0 and theirs > 0
        assert ("not held" in told(ratio)) == (ratio.value > 1.10)
    assert any((tmp_path).rglob("answers.f16")), "the teacher's answers were not kept"
