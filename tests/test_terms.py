"""The terms of recipes: each against a slow definition, and the laws all of them keep."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.kit.distill.pictureterms import balanced_weights, confidence
from compress.kit.distill.reading import parse
from compress.kit.distill.recipe import Recipe
from compress.kit.distill.terms import KINDS
from compress.kit.distill.view import Pair, View
from compress.kit.measure import losses, maplosses
from compress.tasks import TASKS

N, C, H, W = 2, 3, 6, 5


def recipe_of(task, loss, **keys):
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in keys.items()]
    text = f'tasks = ["{task}"]\n[terms.it]\nloss = "{loss}"\nweight = 1.0\n' + "\n".join(lines)
    return Recipe("test", *parse(text.encode(), "test"))


def maps(seed, *shape, scale=1.0):
    return scale * torch.randn(shape or (N, C, H, W), generator=torch.Generator().manual_seed(seed))


def array(tensor):
    return tensor.detach().double().numpy()


def value(task, loss, student, teacher, batch=None, T=1.0, pairs=(), perceptor=None, **keys):
    view = View(TASKS.get(task), student, teacher, batch or {}, pairs, T, perceptor)
    return recipe_of(task, loss, **keys).loss(view)["it"].item()


# -- kernel alignment, Gram matrices, channel means, total variation, Haar


def slow_alignment(x, y):
    rows = [(n, i, j) for n, i, j in product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3]))]
    X = np.array([x[n, :, i, j] for n, i, j in rows])
    Y = np.array([y[n, :, i, j] for n, i, j in rows])

    def frobenius(A, B):
        return math.sqrt(sum(float(a @ b) ** 2 for a in A.T for b in B.T))

    return frobenius(X, Y) ** 2 / (frobenius(X, X) * frobenius(Y, Y))


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_kernel_alignment_is_that_of_the_paper_for_any_widths(channels):
    x, y = maps(0, scale=5.0), maps(1, N, channels, H, W)
    wanted = 1 - slow_alignment(array(x), array(y))
    assert maplosses.kernel_alignment_loss(x, y).item() == pytest.approx(wanted, rel=1e-5)
    assert 0 < wanted < 1


def test_kernel_alignment_is_about_places_not_channels():
    x = maps(0, 1, 4, 6, 6).double()
    turn = torch.linalg.qr(maps(1, 4, 4).double()).Q
    turned = torch.einsum("ij,njhw->nihw", turn, x)
    assert maplosses.kernel_alignment_loss(1e4 * x, turned).item() == pytest.approx(0, abs=1e-9)
    assert maplosses.kernel_alignment_loss(x, maps(2, 1, 4, 6, 6).double()).item() > 0.1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_gradient_of_kernel_alignment_is_exact_at_any_size_of_maps(scale):
    x = (scale * maps(0).double()).requires_grad_()
    y = maps(1, N, 2, H, W).double()
    maplosses.kernel_alignment_loss(x, y).backward()
    step = torch.zeros_like(x)
    step[1, 2, 3, 4] = 1e-5 * scale
    with torch.no_grad():
        rise = maplosses.kernel_alignment_loss(x + step, y) - maplosses.kernel_alignment_loss(x - step, y)
    assert x.grad[1, 2, 3, 4].item() * 2e-5 * scale == pytest.approx(rise.item(), rel=1e-4)


def test_a_dead_map_is_aligned_with_nothing_and_can_recover():
    x = torch.zeros(1, 2, 4, 4, requires_grad=True)
    found = maplosses.kernel_alignment_loss(x, maps(0, 1, 3, 4, 4))
    found.backward()
    assert found.item() == 1
    assert torch.isfinite(x.grad).all()


def test_style_is_the_l1_of_gram_matrices():
    x, y = maps(0), maps(1, N, C, 4, 7)
    total = 0.0
    for n, a, b in product(range(N), range(C), range(C)):
        mine = (array(x)[n, a] * array(x)[n, b]).sum() / (C * H * W)
        theirs = (array(y)[n, a] * array(y)[n, b]).sum() / (C * 4 * 7)
        total += abs(mine - theirs)
    assert maplosses.style_loss(x, y).item() == pytest.approx(total / (N * C * C), rel=1e-5)
    assert maplosses.style_loss(x, x.flip(3)).item() == pytest.approx(0, abs=1e-7)  # where things are plays no part


def test_channel_means_are_compared_squared():
    x, y = maps(0), maps(1, N, C, 3, 9)
    wanted = [(array(x)[n, c].mean() - array(y)[n, c].mean()) ** 2 for n, c in product(range(N), range(C))]
    assert maplosses.channel_means_loss(x, y).item() == pytest.approx(np.mean(wanted), rel=1e-5)


def test_total_variation_is_the_mean_step_down_and_across():
    x = maps(0)
    a = array(x)
    down = np.mean(
        [abs(a[n, c, i + 1, j] - a[n, c, i, j]) for n, c, i, j in product(range(N), range(C), range(H - 1), range(W))]
    )
    across = np.mean(
        [abs(a[n, c, i, j + 1] - a[n, c, i, j]) for n, c, i, j in product(range(N), range(C), range(H), range(W - 1))]
    )
    assert maplosses.total_variation(x).item() == pytest.approx(down + across, rel=1e-6)
    assert maplosses.total_variation(x[:, :, :1, :1]).item() == 0


def slow_haar(plane):
    """Mean band and details of one plane by the filters' definition, odd sides repeated."""
    plane = np.pad(plane, ((0, plane.shape[0] % 2), (0, plane.shape[1] % 2)), mode="edge")
    low, high = np.array([1, 1]) / math.sqrt(2), np.array([1, -1]) / math.sqrt(2)
    bands = np.zeros((4, plane.shape[0] // 2, plane.shape[1] // 2))
    for i, j in np.ndindex(*bands.shape[1:]):
        block = plane[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        bands[:, i, j] = [down @ block @ across for down, across in product((low, high), (low, high))]
    return bands[0], bands[1:]


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (1, 4), (1, 1)])
def test_haar_is_the_orthonormal_transform(height, width):
    x = maps(0, N, C, height, width)
    mean, details = maplosses.haar_details(x)
    for n, c in product(range(N), range(C)):
        low, high = slow_haar(array(x)[n, c])
        assert array(mean)[n, c] == pytest.approx(low, abs=1e-5)
        assert array(details)[n, c] == pytest.approx(high, abs=1e-5)
    if height % 2 == width % 2 == 0:
        assert (mean.square().sum() + details.square().sum()).item() == pytest.approx(x.square().sum().item(), rel=1e-5)


def test_wavelets_compare_detail_at_every_scale_and_nothing_else():
    x, y = maps(0, 1, 2, 16, 12), maps(1, 1, 2, 16, 12)
    terms = []
    mine, theirs = list(array(x)[0]), list(array(y)[0])
    for _ in range(3):
        bands = [(slow_haar(a), slow_haar(b)) for a, b in zip(mine, theirs, strict=True)]
        terms.append(np.mean([np.abs(a[1] - b[1]) for a, b in bands]))
        mine, theirs = [a[0] for a, _ in bands], [b[0] for _, b in bands]
    assert maplosses.wavelet_loss(x, y, 3).item() == pytest.approx(np.mean(terms), rel=1e-5)
    assert maplosses.wavelet_loss(x, x + 0.7, 3).item() == pytest.approx(0, abs=1e-6)
    blocks = F.interpolate(maps(2, 1, 2, 2, 2), scale_factor=8)
    assert maplosses.wavelet_loss(blocks, torch.zeros_like(blocks), 3).item() == pytest.approx(0, abs=1e-6)
    assert maplosses.wavelet_loss(blocks, torch.zeros_like(blocks), 4).item() > 0.01


def test_iou_of_pictures_is_that_of_logits_and_counts_each_class_on_its_own():
    z, t = maps(0, N, 1, H, W), (maps(1, N, 1, H, W) > 0).float()
    assert maplosses.soft_iou_of_pictures(z.sigmoid(), t).item() == pytest.approx(
        losses.soft_iou_loss(z, t).item(), rel=1e-6
    )
    p, t = torch.softmax(maps(2), 1), torch.softmax(maps(3), 1)
    each = [losses.soft_iou_loss(p[:, c : c + 1].logit(), t[:, c : c + 1]).item() for c in range(C)]
    assert maplosses.soft_iou_of_pictures(p, t).item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        maplosses.kernel_alignment_loss,
        maplosses.style_loss,
        maplosses.channel_means_loss,
        losses.feature_l2,
    ],
)
def test_the_number_of_pixels_scales_no_loss_of_maps(loss):
    x, y = maps(0), maps(1)
    large = [F.interpolate(part, scale_factor=4, mode="nearest") for part in (x, y)]
    assert loss(*large).item() == pytest.approx(loss(x, y).item(), rel=1e-4)


@pytest.mark.parametrize("loss", [*(k for k in ("picture", "ssim", "wavelet", "tv"))])
def test_the_number_of_pixels_scales_no_loss_of_pictures(loss):
    x, y = maps(0, 1, 3, 24, 24), maps(1, 1, 3, 24, 24)
    tiled = [part.repeat(1, 1, 4, 4) for part in (x, y)]
    small, large = (value("retouch", loss, [a], [b]) for a, b in ((x, y), tiled))
    assert large == pytest.approx(small, rel=0.03)  # borders differ


COMPARISONS = [
    maplosses.kernel_alignment_loss,
    maplosses.style_loss,
    maplosses.channel_means_loss,
    maplosses.wavelet_loss,
    maplosses.soft_iou_of_pictures,
]


@pytest.mark.parametrize("loss", COMPARISONS)
def test_comparisons_let_no_gradient_into_what_is_learned_from(loss):
    x, y = (maps(seed).double().sigmoid().requires_grad_() for seed in (0, 1))
    found = loss(x, y)
    found.backward()
    assert x.grad.abs().sum() > 0
    assert y.grad is None
    assert torch.autograd.gradcheck(lambda z: loss(z, y.detach()), (x,))


# -- terms of pictures


def test_kl_weighs_every_pixel_by_what_the_teacher_is_sure_of():
    s, t = maps(0, N, 1, H, W, scale=3.0), maps(1, N, 1, H, W, scale=3.0)
    kl, sure = [], []
    for a, b in zip(array(s).ravel(), array(t).ravel(), strict=True):
        q, p = (1 / (1 + math.exp(-z / 2)) for z in (a, b))
        kl.append(4 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))))
        sure.append(abs(2 / (1 + math.exp(-b)) - 1))
    wanted = np.average(kl, weights=sure)
    assert value("saliency", "kl", [s], [t], T=2.0, confidence=True) == pytest.approx(wanted, rel=1e-5)
    assert value("saliency", "kl", [s], [t], T=2.0) == pytest.approx(np.mean(kl), rel=1e-5)


def test_a_class_is_sure_by_the_lead_of_the_first_over_the_second():
    view = View(TASKS.get("segmentation"), [maps(0)], [maps(1)], {})
    weights = array(confidence(view, view.teacher[0]))
    p = np.sort(array(torch.softmax(view.teacher[0].double(), 1)), axis=1)
    lead = p[:, -1] - p[:, -2]
    assert weights[:, 0] == pytest.approx(lead / lead.mean(), rel=1e-4)
    assert weights.mean() == pytest.approx(1, rel=1e-5)


def test_a_teacher_sure_of_nothing_teaches_nothing():
    s = maps(0, N, 1, H, W).requires_grad_()
    view = View(TASKS.get("saliency"), [s], [torch.zeros(N, 1, H, W)], {})
    found = recipe_of("saliency", "kl", confidence=True).loss(view)["loss"]
    found.backward()
    assert found.item() == 0
    assert s.grad.abs().max() == 0


def test_pictures_have_no_confidence():
    with pytest.raises(UsageError, match=r"confidence has no meaning for retouch.*rgb"):
        value("retouch", "picture", [maps(0)], [maps(1)], confidence=True)


@pytest.mark.parametrize("task", ["saliency", "membrane"])
def test_a_hot_kl_of_masks_is_an_eighth_of_the_squared_difference_of_logits(task):
    s, t = maps(0, N, 1, H, W), maps(1, N, 1, H, W)
    factor = 2.0 if task == "membrane" else 1.0  # the mask's logit
    wanted = ((factor * (s - t)) ** 2).mean().item() / 8
    assert value(task, "kl", [s.double()], [t.double()], T=1000.0) == pytest.approx(wanted, rel=1e-5)


def test_a_hot_kl_of_classes_is_the_squared_difference_of_centred_logits():
    s, t = maps(0).double(), maps(1).double()
    apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    wanted = apart.square().sum(1).mean().item() / (2 * C)  # Hinton et al. 2015, equation 4
    assert value("segmentation", "kl", [s], [t], T=1000.0) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("task", ["saliency", "membrane", "segmentation"])
def test_the_gradient_of_kl_has_about_one_size_at_every_temperature(task):
    sizes = []
    for T in (1.0, 2.0, 4.0, 7.0, 100.0):
        s = (0.3 * maps(0, N, TASKS.get(task).output.channels, H, W)).requires_grad_()
        teacher = 0.3 * maps(1, *s.shape)
        recipe_of(task, "kl").loss(View(TASKS.get(task), [s], [teacher], {}, (), T))["loss"].backward()
        sizes.append(s.grad.norm().item())
    assert max(sizes) < 1.1 * min(sizes)


def test_a_term_s_own_temperature_wins():
    s, t = maps(0, N, 1, H, W), maps(1, N, 1, H, W)
    view = View(TASKS.get("saliency"), [s], [t], {}, (), 2.0)
    found = recipe_of("saliency", "kl", T=5.0).loss(view)["it"].item()
    assert found == pytest.approx(losses.tempered_binary_kl(s, t, 5.0).item(), rel=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("task", TASKS.names())
def test_picture_compares_what_ships(task, norm):
    channels = TASKS.get(task).output.channels
    s, t = maps(0, N, channels, H, W), maps(1, N, channels, H, W)
    mine, theirs = (
        {
            "saliency": lambda z: 1 / (1 + np.exp(-z)),
            "membrane": lambda z: (np.tanh(z) + 1) / 2,
            "segmentation": lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True),
            "retouch": lambda z: (np.tanh(z) + 1) / 2,
            "color": np.tanh,
        }[task](array(s)),
        None,
    )
    theirs = array(TASKS.get(task).activate(t))
    wanted = np.abs(mine - theirs).mean() if norm == "l1" else np.square(mine - theirs).mean()
    assert value(task, "picture", [s], [t], norm=norm) == pytest.approx(wanted, rel=1e-5)


def test_picture_weighs_by_confidence():
    s, t = maps(0, N, 1, H, W), maps(1, N, 1, H, W)
    p, q = (1 / (1 + np.exp(-array(z))) for z in (t, s))
    wanted = np.average(np.square(p - q), weights=np.abs(2 * p - 1))
    assert value("saliency", "picture", [s], [t], norm="l2", confidence=True) == pytest.approx(wanted, rel=1e-5)


def test_ssim_is_scikit_image_s_of_pictures_brought_to_0_to_1():
    s, t = maps(0, 1, 2, 32, 32), maps(1, 1, 2, 32, 32)
    planes = [((np.tanh(array(z)[0]) + 1) / 2) for z in (s, t)]
    found = value("color", "ssim", [s], [t])
    full = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, full=True
        )[1]
        for a, b in zip(*planes, strict=True)
    ]
    inner = np.mean([plane[5:-5, 5:-5] for plane in full])
    assert found == pytest.approx(1 - inner, abs=0.03)  # borders are made up otherwise


def test_what_labels_teach_is_compared_at_their_size():
    z, target = maps(0, N, 1, 4, 4), (maps(1, N, 1, 8, 8) > 0).float()
    sized = F.interpolate(z, size=(8, 8), mode="bilinear")
    batch = {"target": target}
    found = value("saliency", "iou", [z], [z], batch, of="labels")
    assert found == pytest.approx(losses.soft_iou_loss(sized, target).item(), rel=1e-6)
    found = value("saliency", "picture", [z], [z], batch, of="labels")
    assert found == pytest.approx((sized.sigmoid() - target).abs().mean().item(), rel=1e-6)
    found = value("saliency", "ssim", [z], [z], batch, of="labels")
    assert found == pytest.approx(losses.ssim_loss(sized.sigmoid(), target).item(), rel=1e-6)


def test_colours_are_compared_with_the_photo_s_own():
    photo = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    task = TASKS.get("color")
    raw = torch.atanh(task.truth({"target": photo}).clamp(-0.999, 0.999))
    assert value("color", "picture", [raw], [raw], {"target": photo}, of="labels") == pytest.approx(0, abs=1e-4)


def test_class_numbers_are_no_picture():
    with pytest.raises(UsageError, match="class labels are no picture"):
        value("segmentation", "ssim", [maps(0)], [maps(1)], {"target": torch.zeros(N, 1, H, W).long()}, of="labels")


def test_iou_is_of_masks_and_classes():
    with pytest.raises(UsageError, match="iou has no meaning for retouch"):
        value("retouch", "iou", [maps(0)], [maps(1)])


# -- labels, and photos without


def test_hard_counts_labelled_rows_alone():
    z, target = maps(0, 4, 1, H, W), (maps(1, 4, 1, H, W) > 0).float()
    junk = target.clone()
    junk[[0, 3]] = float("nan")
    batch = {"image": maps(2, 4, 3, H, W), "target": junk, "labelled": torch.tensor([0.0, 1.0, 1.0, 0.0])}
    for loss, keys in (("hard", {}), ("iou", {"of": "labels"}), ("ssim", {"of": "labels"})):
        wanted = value("saliency", loss, [z[1:3]], [z[1:3]], {"target": target[1:3]}, **keys)
        assert value("saliency", loss, [z], [z], batch, **keys) == pytest.approx(wanted, rel=1e-6)
        everyone = batch | {"target": target, "labelled": torch.ones(4)}
        whole = value("saliency", loss, [z], [z], {"target": target}, **keys)
        assert value("saliency", loss, [z], [z], everyone, **keys) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "keys"),
    [
        ("hard", {}),
        ("hard", {"balance": "median"}),
        *((k, {"of": "labels"}) for k in ("iou", "ssim", "picture", "wavelet")),
    ],
)
def test_a_batch_without_labelled_rows_costs_exactly_nothing(loss, keys):
    z = [maps(0, N, 1, H, W).requires_grad_(), maps(1, N, 1, 3, 3).requires_grad_()]
    batch = {"target": torch.full((N, 1, H, W), float("nan")), "labelled": torch.zeros(N)}
    view = View(TASKS.get("saliency"), z, [maps(2, N, 1, H, W)], batch)
    found = recipe_of("saliency", loss, **keys).loss(view)
    assert found["loss"].item() == found["it"].item() == 0
    found["loss"].backward()
    assert all(part.grad is not None and part.grad.abs().max() == 0 for part in z)


def test_balanced_weights_are_those_of_the_papers():
    target = torch.tensor([0] * 60 + [1] * 30 + [2] * 6 + [255] * 4).reshape(1, 1, 10, 10)
    assert balanced_weights(target, 4, "median").tolist() == pytest.approx([0.5, 1.0, 5.0, 0.0])
    b = 95 / 96  # 96 labelled pixels
    raw = [(1 - b) / (1 - b**n) for n in (60, 30, 6)]
    wanted = [w * 3 / sum(raw) for w in raw]
    assert balanced_weights(target, 4, "effective").tolist() == pytest.approx([*wanted, 0.0], rel=1e-5)
    for balance in ("median", "effective"):
        assert balanced_weights(torch.full((1, 1, 4, 4), 255), 3, balance).tolist() == [0, 0, 0]


def test_effective_numbers_survive_a_large_batch():
    target = torch.zeros(1, 1, 4000, 4000, dtype=torch.int64)
    target[0, 0, 0, 0] = 1
    weights = balanced_weights(target, 2, "effective")
    assert weights.sum().item() == pytest.approx(2)
    P = 16_000_000
    ratio = -math.expm1((P - 1) * math.log1p(-1 / P)) / -math.expm1(math.log1p(-1 / P))
    assert (weights[1] / weights[0]).item() == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("balance", ["median", "effective"])
def test_rare_classes_count_as_much_among_the_labels(balance):
    z = maps(0, N, 3, H, W)
    target = torch.zeros(N, 1, H, W, dtype=torch.int64)
    target[:, :, 0], target[0, 0, 1, 0], target[0, 0, 1, 1] = 1, 2, 255
    weights = balanced_weights(target, 3, balance).tolist()
    p = np.exp(array(z)) / np.exp(array(z)).sum(1, keepdims=True)
    cost = mass = 0.0
    for n, i, j in product(range(N), range(H), range(W)):
        true = int(target[n, 0, i, j])
        if true != 255:
            cost -= weights[true] * math.log(p[n, true, i, j])
            mass += weights[true]
    found = value("segmentation", "hard", [z], [z], {"target": target}, balance=balance)
    assert found == pytest.approx(cost / mass, rel=1e-5)
    assert found != pytest.approx(value("segmentation", "hard", [z], [z], {"target": target}), rel=1e-3)


def test_only_classes_are_balanced():
    batch = {"target": torch.zeros(N, 1, H, W)}
    with pytest.raises(UsageError, match="balance = 'median' has no meaning for saliency"):
        value("saliency", "hard", [maps(0, N, 1, H, W)], [maps(1, N, 1, H, W)], batch, balance="median")


# -- maps


def pair_of(student, teacher, adapted=None):
    return Pair(student, teacher, student if adapted is None else adapted, "layer")


@pytest.mark.parametrize(
    ("loss", "slow"),
    [
        ("channels", lambda s, t: losses.channel_wise_distillation(s, t, 3.0)),
        ("attention", lambda s, t: losses.attention_distillation(s, t, 3.0)),
        ("kernel", maplosses.kernel_alignment_loss),
        ("features", lambda s, t: (s - t).square().mean()),
        ("means", maplosses.channel_means_loss),
        ("style", maplosses.style_loss),
    ],
)
def test_terms_of_taps_are_means_over_pairs(loss, slow):
    pairs = [pair_of(maps(i), maps(i + 10)) for i in range(3)]
    z = maps(20, N, 1, H, W)
    wanted = np.mean([slow(p.student, p.teacher).item() for p in pairs])
    assert value("saliency", loss, [z], [z], T=3.0, pairs=pairs) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", ["channels", "features", "means", "style"])
def test_adapted_maps_are_what_is_compared_where_widths_matter(loss):
    narrow, wide, teacher = maps(0, N, 2, H, W), maps(1), maps(2)
    z = maps(3, N, 1, H, W)
    found = value("saliency", loss, [z], [z], pairs=[pair_of(narrow, teacher, wide)])
    assert found == pytest.approx(value("saliency", loss, [z], [z], pairs=[pair_of(wide, teacher)]), rel=1e-6)
    with pytest.raises(UsageError, match=r"equal width on taps: the student's has 2 channels, the teacher's 3"):
        value("saliency", loss, [z], [z], pairs=[pair_of(narrow, teacher)])


@pytest.mark.parametrize("loss", ["kernel", "attention"])
def test_others_compare_maps_as_they_are(loss):
    narrow, teacher, z = maps(0, N, 2, H, W), maps(2), maps(3, N, 1, H, W)
    found = [value("saliency", loss, [z], [z], pairs=[pair_of(narrow, teacher, other)]) for other in (maps(1), maps(4))]
    assert found[0] == found[1] > 0


@pytest.mark.parametrize("loss", ["channels", "features", "kernel"])
def test_the_teacher_s_map_is_brought_to_the_student_s_size(loss):
    mine, theirs, z = maps(0), maps(1, N, C, 2 * H, 2 * W), maps(2, N, 1, H, W)
    small = F.interpolate(theirs, size=(H, W), mode="bilinear")
    found, wanted = (value("saliency", loss, [z], [z], pairs=[pair_of(mine, t)]) for t in (theirs, small))
    assert found == pytest.approx(wanted, rel=1e-5)


def test_channels_can_compare_the_outputs_themselves():
    s, t = [maps(0), maps(1, N, C, 3, 3)], [maps(2), maps(3, N, C, 3, 3)]
    wanted = np.mean([losses.channel_wise_distillation(a, b, 4.0).item() for a, b in zip(s, t, strict=True)])
    assert value("segmentation", "channels", s, t, T=4.0, on="outputs") == pytest.approx(wanted, rel=1e-5)


def test_features_are_the_outputs_beside_the_pictures():
    s, t = [maps(0), maps(1, N, 4, 3, 3)], [maps(2), maps(3, N, 7, 5, 5)]
    wanted = losses.attention_distillation(s[1], t[1], 2.0).item()
    assert value("retouch", "attention", s, t, T=2.0, on="features") == pytest.approx(wanted, rel=1e-5)


def test_taps_without_pairs_are_refused():
    with pytest.raises(UsageError, match="no layers of the two networks were matched"):
        value("saliency", "channels", [maps(0)], [maps(0)])


# -- a frozen feature network


def perceptor(picture):
    """Two maps of a picture 0..1."""
    assert picture.min() >= 0
    assert picture.max() <= 1
    kernel = maps(9, 4, 3, 3, 3)
    first = F.relu(F.conv2d(picture, kernel, padding=1))
    return [first, F.avg_pool2d(first, 2, ceil_mode=True)]


def test_perceptual_terms_look_through_the_perceptor():
    s, t = maps(0), maps(1)
    seen = [perceptor((torch.tanh(z) + 1) / 2) for z in (s, t)]
    wanted = np.mean([(a - b).abs().mean().item() for a, b in zip(*seen, strict=True)])
    assert value("retouch", "perceptual", [s], [t], perceptor=perceptor) == pytest.approx(wanted, rel=1e-5)
    wanted = np.mean([maplosses.style_loss(a, b).item() for a, b in zip(*seen, strict=True)])
    found = value("retouch", "style", [s], [t], perceptor=perceptor, on="perceptor")
    assert found == pytest.approx(wanted, rel=1e-5)
    batch = {"target": torch.sigmoid(maps(2))}
    seen[1] = perceptor(batch["target"])
    wanted = np.mean([(a - b).abs().mean().item() for a, b in zip(*seen, strict=True)])
    found = value("retouch", "perceptual", [s], [t], batch, perceptor=perceptor, of="labels")
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("loss", "keys"), [("perceptual", {}), ("style", {"on": "perceptor"})])
def test_without_one_they_are_refused_and_masks_can_t_be_seen(loss, keys):
    with pytest.raises(UsageError, match=r"none was given.*--perceptor FILE"):
        value("retouch", loss, [maps(0)], [maps(1)], **keys)
    with pytest.raises(UsageError, match="saliency are mask, wanted rgb"):
        value("saliency", loss, [maps(0)], [maps(1)], perceptor=perceptor, **keys)


# -- laws of all terms

TASK_OF = {
    "picture": "retouch",
    "ssim": "retouch",
    "wavelet": "retouch",
    "tv": "retouch",
    "perceptual": "retouch",
    "hard": "segmentation",
}
CASES = [
    *((loss, "outputs", {}) for loss in KINDS if not KINDS[loss].on),
    *((loss, "taps", {"on": "taps"}) for loss in KINDS if KINDS[loss].on),
    *((loss, "outputs", {"on": "outputs"}) for loss in KINDS if KINDS[loss].on),
    *((loss, "labels", {"of": "labels"}) for loss in KINDS if KINDS[loss].of),
    ("style", "perceptor", {"on": "perceptor"}),
    ("kl", "confidence", {"confidence": True}),
    ("picture", "l2", {"norm": "l2"}),
    ("hard", "balanced", {"balance": "effective"}),
]
IDS = [f"{loss}-{label}" for loss, label, _ in CASES]


def task_of(loss, keys):
    return TASKS.get("retouch" if keys.get("on") == "perceptor" else TASK_OF.get(loss, "saliency"))


def made(loss, keys, side=8, seed=0, dtype=torch.float32, scale=2.0):
    """A view of two strangers."""
    task = task_of(loss, keys)
    channels = 3 if task.name == "segmentation" else task.output.channels
    shape = (1, channels, side, side)
    student, teacher = (maps(seed + i, *shape, scale=scale).to(dtype).requires_grad_() for i in range(2))
    mine, theirs = (maps(seed + i + 2, 1, 4, side, side, scale=scale).to(dtype).requires_grad_() for i in range(2))
    labels = maps(seed + 4, *shape)
    target = labels.argmax(1, keepdim=True) if task.nearest else (labels > 0).float()
    return View(task, [student], [teacher], {"target": target}, [Pair(mine, theirs, mine, "layer")], 2.0, perceptor)


def inputs(view):
    return [view.student[0], view.pairs[0].student], [view.teacher[0], view.pairs[0].teacher]


@pytest.mark.parametrize(("loss", "label", "keys"), CASES, ids=IDS)
def test_the_student_learns_and_the_teacher_never_does(loss, label, keys):
    view = made(loss, keys)
    told = recipe_of(view.task.name, loss, **keys).loss(view)
    told["loss"].backward()
    students, teachers = inputs(view)
    learned = students[keys.get("on") == "taps"]
    assert learned.grad.abs().sum() > 0
    assert torch.isfinite(learned.grad).all()
    assert all(teacher.grad is None for teacher in teachers)
    assert told["it"].grad_fn is None
    assert told["it"].item() == told["loss"].item()


@pytest.mark.parametrize(("loss", "label", "keys"), CASES, ids=IDS)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_the_smallest_maps_have_a_finite_cost_and_gradient(loss, label, keys, side):
    view = made(loss, keys, side)
    found = recipe_of(view.task.name, loss, **keys).loss(view)["loss"]
    found.backward()
    assert torch.isfinite(found)
    assert all(torch.isfinite(part.grad).all() for part in inputs(view)[0] if part.grad is not None)


@pytest.mark.parametrize(("loss", "label", "keys"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss, label, keys, dtype):
    view = made(loss, keys, dtype=dtype, scale=20.0)
    recipe = recipe_of(view.task.name, loss, **keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = recipe.loss(view)["loss"]
    pair = view.pairs[0]
    exact = View(
        view.task,
        [view.student[0].float()],
        [view.teacher[0].float()],
        view.batch,
        [Pair(pair.student.float(), pair.teacher.float(), pair.student.float(), "layer")],
        2.0,
        perceptor,
    )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(recipe.loss(exact)["loss"].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "label", "keys"),
    [c for c in CASES if c[0] not in ("tv", "hard") and c[1] != "labels"],
    ids=[i for i, c in zip(IDS, CASES, strict=True) if c[0] not in ("tv", "hard") and c[1] != "labels"],
)
def test_a_student_like_its_teacher_costs_the_least(loss, label, keys):
    view = made(loss, keys, scale=1000.0 if loss == "iou" else 2.0)  # a soft mask does not agree with itself wholly
    theirs, inner = view.teacher[0].detach(), view.pairs[0].teacher.detach()
    recipe = recipe_of(view.task.name, loss, **keys)

    def cost(output, features):
        told = recipe.loss(
            View(view.task, [output], [theirs], view.batch, [Pair(features, inner, features, "layer")], 2.0, perceptor)
        )
        return told["loss"].item()

    best = cost(theirs.clone(), inner.clone())
    assert best == pytest.approx(0, abs=1e-3 if loss == "iou" else 1e-5)
    assert best < cost(maps(50, *theirs.shape), maps(51, *inner.shape))


def test_terms_are_summed_by_their_weights_and_told_without():
    text = b'tasks = ["saliency"]\n[terms.kl]\nweight = 3\n[terms.other]\nloss = "picture"\nweight = 0.25\n'
    recipe = Recipe("test", *parse(text, "test"))
    view = made("kl", {})
    told = recipe.loss(view)
    assert list(told) == ["loss", "kl", "other"]
    assert told["loss"].item() == pytest.approx((3 * told["kl"] + 0.25 * told["other"]).item(), rel=1e-6)


def test_nothing_that_was_handed_in_changes():
    view = made("kl", {})
    kept = [part.detach().clone() for part in (*view.student, *view.teacher, view.batch["target"])]
    for loss, keys in (("kl", {"confidence": True}), ("ssim", {"of": "labels"}), ("wavelet", {}), ("tv", {})):
        recipe_of("saliency", loss, **keys).loss(view)
    assert all(
        torch.equal(a, b) for a, b in zip((*view.student, *view.teacher, view.batch["target"]), kept, strict=True)
    )
