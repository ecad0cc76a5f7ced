"""Structured pruning: every registered network, layers of every kind, the importance of a channel, hostile widths."""

import copy
import json
from functools import cache

import numpy as np
import pytest
import torch
from tiny_store import record, season
from torch import nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.core.store import with_files
from compress.core.types import from_json, to_json
from compress.formats.onnx import Onnx
from compress.formats.safetensors import Safetensors
from compress.kit.graph import count_macs, count_parameters, load_state
from compress.kit.prune.core import How, choose, cut, free, full_widths, prune, prune_to, ratio_for_macs
from compress.kit.prune.importance import find_importance
from compress.kit.prune.inherit import student_from
from compress.kit.prune.trace import couple
from compress.kit.prune.widths import channels_of, reshape, sized, widths_of
from compress.kit.ship.parity import check_parity
from compress.kit.ship.runtime import Shipped
from compress.tasks import TASKS

pytest.importorskip("torch_pruning")

NAMES = [*TEACHERS.names(), *STUDENTS.names()]
every_network = pytest.mark.parametrize("name", NAMES)
HALF = How(round_to=1)


@cache
def sample(name):
    """A small network in eval mode whose norms have seen data. Shared: don't change it."""
    torch.manual_seed(0)
    net = find_network(name).build(width=8).eval()
    season(net)
    return net


@cache
def halved(name):
    return prune(sample(name), image(name), 0.5, HALF)


def image(name, height=32, width=32):
    channels = TASKS.get(find_network(name).task).input.channels
    return torch.rand(1, channels, height, width, generator=torch.manual_seed(1))


def run(net, picture):
    with torch.no_grad():
        out = net(picture)
    return out if isinstance(out, tuple) else (out,)


def state_of(net):
    return {key: value.clone() for key, value in net.state_dict().items()}


def without_odd_channels(net):
    """Silence every odd output channel of every layer, by no knowledge of what goes together."""
    quiet = copy.deepcopy(net)
    with torch.no_grad():
        for part in quiet.modules():
            axis = 1 if isinstance(part, nn.ConvTranspose2d) else 0
            for tensor, along in ((getattr(part, "weight", None), axis), (getattr(part, "bias", None), 0)):
                if tensor is not None and not isinstance(part, nn.PReLU):
                    tensor.index_fill_(along, torch.arange(1, tensor.shape[along], 2), 0.0)
    return quiet


def by_output_weights(net, group):
    """What the root's own outputs weigh: nothing where they are silent."""
    root = net.get_submodule(group.root)
    weight = root.weight.detach().abs()
    if not isinstance(root, nn.ConvTranspose2d):
        return weight.flatten(1).sum(1)
    return torch.cat([part.sum((0, 2, 3)) for part in weight.chunk(root.groups)])


def check_silent_channels_go_unnoticed(net, picture):
    quiet = without_odd_channels(net)
    thin = prune(quiet, picture, 0.5, How(by_output_weights))
    assert count_parameters(thin) < count_parameters(quiet)
    before, after = run(quiet, picture), run(thin, picture)
    assert len(before) == len(after)
    compared = [(a, b) for a, b in zip(before, after, strict=True) if a.shape == b.shape]
    assert before[0].shape == after[0].shape
    assert float(before[0].std()) > 0
    for one, other in compared:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return quiet, thin


# every registered network


@every_network
def test_half_of_the_channels_go_and_the_outputs_keep_their_shapes(name):
    net, thin = sample(name), halved(name)
    assert 0.2 < count_parameters(thin) / count_parameters(net) < 0.5
    for size in ((32, 32), (37, 45)):
        picture = image(name, *size)
        before, after = run(net, picture), run(thin, picture)
        assert before[0].shape == after[0].shape
        assert [o.shape[2:] for o in before] == [o.shape[2:] for o in after]
        assert torch.isfinite(after[0]).all()
    assert not torch.equal(run(net, image(name))[0], run(thin, image(name))[0])


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("ratio", [0.25, 0.9])
def test_other_ratios_and_scopes_work_and_more_goes_with_more(name, ratio):
    for scope in ("layer", "global"):
        thin = prune(sample(name), image(name), ratio, How(scope=scope))
        small, large = sorted((count_parameters(thin), count_parameters(halved(name))))
        assert (small == count_parameters(thin)) == (ratio > 0.5), (scope, small, large)
        assert run(thin, image(name))[0].shape == run(sample(name), image(name))[0].shape


@every_network
def test_the_manifest_alone_rebuilds_it_bit_for_bit(name, tmp_path):
    thin, task = halved(name), find_network(name).task
    made = record(network=name, task=task, network_options={"width": 8}, widths=widths_of(thin),
                  input=TASKS.get(task).input)  # fmt: skip
    Safetensors().write(thin, tmp_path)
    there = from_json(type(made), json.loads(json.dumps(to_json(with_files(made, tmp_path)))))
    rebuilt = Safetensors().module(tmp_path, there)
    assert all(torch.equal(a, b) for a, b in zip(run(thin, image(name)), run(rebuilt, image(name)), strict=True))
    # torch's own words about each layer: channels, groups, features
    assert repr(rebuilt) == repr(thin)


@every_network
def test_silent_channels_go_unnoticed(name):
    check_silent_channels_go_unnoticed(sample(name), image(name))


@every_network
def test_the_original_stays_as_it_is(name):
    torch.manual_seed(0)
    again = find_network(name).build(width=8).eval()
    season(again)
    halved(name)
    assert all(torch.equal(a, b) for a, b in zip(sample(name).state_dict().values(), again.state_dict().values(),
                                                 strict=True))  # fmt: skip
    assert repr(sample(name)) == repr(again)
    assert [p.requires_grad for p in sample(name).parameters()] == [p.requires_grad for p in again.parameters()]


def check_export(name, folder):
    spec = TASKS.get(find_network(name).task).input
    module = Shipped(halved(name), TASKS.get(find_network(name).task).activate).eval()
    path = folder / "model.onnx"
    Onnx().write(module, path, input=spec, output=TASKS.get(find_network(name).task).output, size=(32, 32))
    check_parity(module, path, [image(name).numpy()], 1e-4)


def test_it_exports_with_parity(tmp_path):
    check_export("csrnet", tmp_path)


@pytest.mark.slow
@every_network
def test_every_network_exports_with_parity(name, tmp_path):
    check_export(name, tmp_path)


def test_a_frozen_part_and_what_it_says_stay():
    torch.manual_seed(0)
    net = find_network("colorizer").build(width=8, features="inception").eval()
    picture = image("colorizer")
    thin = prune(net, picture, 0.5, HALF)
    assert widths_of(thin.features) == widths_of(net.features)
    assert not any(p.requires_grad for p in thin.features.parameters())
    # what the data brings in place of the frozen part still fits
    with torch.no_grad():
        vector = thin.features(picture)
        assert torch.equal(thin(picture, vector)[0], thin(picture)[0])


# layers of every kind


class Net(nn.Module):
    """Layers by name and a forward given as a function."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x)


def conv(source, width, kernel=3, **more):
    return nn.Conv2d(source, width, kernel, padding=kernel // 2, **more)


def plain(width=8):
    return Net(lambda net, x: net.b(F.relu(net.a(x))), a=conv(3, width), b=conv(width, 2))


KINDS = {
    "plain": plain,
    "in place": lambda: nn.Sequential(conv(3, 8), nn.ReLU(inplace=True), conv(8, 2)),
    "sum": lambda: Net(lambda n, x: n.c(n.a(x) + F.relu(n.b(x))), a=conv(3, 8), b=conv(3, 8), c=conv(8, 2)),
    "concatenated": lambda: Net(lambda n, x: n.c(torch.cat((n.a(x), n.b(x)), 1)), a=conv(3, 8), b=conv(3, 6),
                                c=conv(14, 2)),
    "beside the picture": lambda: Net(lambda n, x: n.b(torch.cat((x, n.a(x), x), 1)), a=conv(3, 8), b=conv(14, 2)),
    "side by side, then added": lambda: Net(lambda n, x: n.d(torch.cat((n.a(x), n.b(x)), 1) + n.c(x)), a=conv(3, 8),
                                            b=conv(3, 8), c=conv(3, 16), d=conv(16, 2)),
    "depthwise": lambda: nn.Sequential(conv(3, 8), conv(8, 8, groups=8), nn.ReLU(), conv(8, 2)),
    "transposed depthwise": lambda: nn.Sequential(
        conv(3, 8), nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), nn.ReLU(), conv(8, 2)),
    "transposed": lambda: nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.ReLU(), conv(6, 2)),
    "grouped": lambda: nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=2), nn.ReLU(), conv(12, 2)),
    "transposed grouped": lambda: nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2), nn.ReLU(), conv(12, 2)),
    "PReLU": lambda: nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 6), nn.PReLU(), conv(6, 2)),
    "instance norms": lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8), nn.ReLU(), conv(8, 6),
                                            nn.InstanceNorm2d(6, affine=True), nn.ReLU(), conv(6, 2)),
    "a norm without numbers": lambda: nn.Sequential(conv(3, 8, bias=False), nn.BatchNorm2d(8, affine=False),
                                                    conv(8, 2)),
    "flattened": lambda: Net(lambda n, x: n.b(n.a(x)) * n.d(F.relu(n.c(F.adaptive_avg_pool2d(n.a(x), 4).flatten(1))))[
        :, :, None, None], a=conv(3, 8), b=conv(8, 2), c=nn.Linear(128, 6), d=nn.Linear(6, 2)),
    "squeezed": lambda: Net(lambda n, x: n.d(n.a(x) * n.c(F.relu(n.b(n.a(x).mean((2, 3)))))[:, :, None, None]),
                            a=conv(3, 8), b=nn.Linear(8, 4), c=nn.Linear(4, 8), d=conv(8, 2)),
    "used twice": lambda: Net(lambda n, x: n.b(n.a(x)) + n.b(n.a(x.flip(3))), a=conv(3, 8), b=conv(8, 2)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_every_kind_are_followed(kind):
    torch.manual_seed(0)
    net, picture = KINDS[kind]().eval(), torch.rand(1, 3, 16, 16)
    _, thin = check_silent_channels_go_unnoticed(net, picture)
    fresh = KINDS[kind]().eval()
    load_state(reshape(fresh, widths_of(thin)), thin.state_dict())
    assert torch.equal(run(fresh, picture)[0], run(thin, picture)[0])
    assert repr(fresh) == repr(thin)


def shuffled(n, x):
    x = n.a(x)
    return n.b(x.view(1, 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape))


STAY = {
    "before a pixel shuffle": (lambda: nn.Sequential(conv(3, 8), nn.PixelShuffle(2), conv(2, 2)), {"0": 8}),
    "pixel unshuffle": (lambda: nn.Sequential(conv(3, 4), nn.PixelUnshuffle(2), conv(16, 2)), {"0": 4}),
    "shuffled channels": (lambda: Net(shuffled, a=conv(3, 8), b=conv(8, 2)), {"a": 8}),
    "mean over channels": (lambda: Net(lambda n, x: n.b(n.a(x).mean(1, keepdim=True)), a=conv(3, 8), b=conv(1, 2)),
                           {"a": 8}),
    "mean over the last but two": (lambda: Net(lambda n, x: n.b(n.a(x).mean(-3, keepdim=True)), a=conv(3, 8),
                                               b=conv(1, 2)), {"a": 8}),
    "group norm": (lambda: nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), conv(8, 2)), {"0": 8}),
    "one gate for all": (lambda: Net(lambda n, x: n.c(n.a(x) * n.b(x)), a=conv(3, 8), b=conv(3, 1), c=conv(8, 2)),
                         {"a": 8, "b": 1}),
    "outputs": (lambda: Net(lambda n, x: (n.a(x), n.b(x)), a=conv(3, 8), b=conv(3, 6)), {"a": 8, "b": 6}),
}  # fmt: skip


@pytest.mark.parametrize("kind", STAY)
def test_what_moves_or_mixes_channels_keeps_them(kind):
    make, wanted = STAY[kind]
    net, picture = make().eval(), torch.rand(1, 3, 16, 16)
    # beside it a part that can go, so that something can be pruned
    both = Net(lambda n, x: n.inner(n.d(F.relu(n.c(x)))), c=conv(3, 8), d=conv(8, 3), inner=net)
    thin = prune(both, picture, 0.5, HALF)
    assert thin.c.out_channels == 4
    kept = {path: channels_of(thin.inner.get_submodule(path)) for path in wanted}
    assert kept == wanted
    assert [o.shape for o in run(thin, picture)] == [o.shape for o in run(both, picture)]
    assert all(group.why for group in couple(net, picture))


def test_features_beside_the_picture_may_shrink_and_pictures_may_not():
    net = Net(lambda n, x: (n.b(n.a(x)), n.a(x), n.c(x)), a=conv(3, 8), b=conv(8, 2), c=conv(3, 2))
    thin = prune(net, torch.rand(1, 3, 8, 8), 0.5, HALF)
    assert [o.shape[1] for o in run(thin, torch.rand(1, 3, 8, 8))] == [2, 4, 2]


def test_a_forward_that_takes_more_than_a_picture_is_refused_with_a_reason():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv(3, 8)

        def forward(self, x, y):
            return self.a(x) + y

    with pytest.raises(ArtifactError, match="Two can't be followed"):
        prune(Two(), torch.rand(1, 3, 8, 8), 0.5, HALF)


# importance


def kept_of(net, thin, path="a"):
    """Which of a layer's channels stayed, found by their weights."""
    old, new = net.get_submodule(path).weight.detach(), thin.get_submodule(path).weight.detach()
    return [next(i for i, w in enumerate(old) if torch.equal(w, mine)) for mine in new]


@pytest.mark.parametrize(("name", "power"), [("l1", 1), ("l2", 2)])
def test_weights_of_both_sides_decide_as_in_a_loop(name, power):
    torch.manual_seed(3)
    net = plain(8)
    a, b = net.a.weight.detach().numpy(), net.b.weight.detach().numpy()
    worth = []
    for channel in range(8):
        outgoing = sum(abs(float(v)) ** power for v in np.ravel(a[channel]))
        incoming = sum(abs(float(v)) ** power for v in np.ravel(b[:, channel]))
        worth.append(outgoing + incoming)
    wanted = sorted(np.argsort(worth)[-4:].tolist())
    assert kept_of(net, prune(net, torch.rand(1, 3, 8, 8), 0.5, How(name))) == wanted
    # had only one side counted, others would have stayed
    assert wanted != sorted(np.argsort([np.abs(b[:, c]).sum() for c in range(8)])[-4:].tolist())


def tp_groups(net, picture):
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(
        net.requires_grad_(True), picture, forward_fn=lambda n, x: n(x), unwrapped_parameters=[], customized_pruners={},
        ignored_layers=[], ignored_params=[], verbose=False,
    )  # fmt: skip
    names = {part: path for path, part in net.named_modules()}
    return {names[group[0].dep.target.module]: group for group in graph.get_all_groups(ignored_layers=[])}


@pytest.mark.parametrize(
    ("name", "network"),
    # of taylor on batch norms torch-pruning 1.6.1 says nothing: it looks for group norms in their place
    [("l2", "membrane_small"), ("l1", "membrane_small"), ("bn", "membrane_small"), ("taylor", "plain_unet")],
)
def test_scores_are_those_of_torch_pruning(name, network):
    import torch_pruning

    torch.manual_seed(0)
    net = find_network(network).build(width=8).eval()  # skips, transposed convolutions
    season(net)
    picture = image(network)
    net(picture)[0].square().mean().backward()
    theirs = {
        "l2": torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "l1": torch_pruning.importance.GroupMagnitudeImportance(p=1),
        "taylor": torch_pruning.importance.GroupTaylorImportance(),
        "bn": torch_pruning.importance.BNScaleImportance(),
    }[name]
    ours, groups, compared = find_importance(name), tp_groups(net, picture), 0
    for group in couple(net, picture):
        wanted = theirs(groups[group.root]) if group.root in groups else None
        if wanted is not None:
            torch.testing.assert_close(ours(net, group).float(), wanted.float(), rtol=1e-4, atol=1e-6)
            compared += 1
    assert compared >= 10


def test_taylor_takes_what_the_loss_does_not_feel():
    torch.manual_seed(0)
    net = plain(8)
    with torch.no_grad():
        net.b.weight[:, [0, 2, 5, 6]] = 0.0
        net.a.weight[[0, 2, 5, 6]] *= 100.0  # large, yet without a say
    picture = torch.rand(1, 3, 8, 8)
    # the loss does not look at output 1: weights that feed it alone count for nothing
    net(picture)[:, :1].square().mean().backward()
    assert kept_of(net, prune(net, picture, 0.5, How("taylor"))) == [1, 3, 4, 7]
    assert kept_of(net, prune(net, picture, 0.5, How("l2"))) != [1, 3, 4, 7]


def test_gradients_stay_with_the_original():
    net = plain(8)
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    thin = prune(net, torch.rand(1, 3, 8, 8), 0.5, How("taylor"))
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad is None for p in thin.parameters())


def test_scales_of_norms_decide_where_asked():
    net = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.1, -3.0, 0.2, 2.0, 0.3, 1.0]))
        net[0].weight[0] *= 1000.0
    assert kept_of(net, prune(net, torch.rand(1, 3, 8, 8), 0.5, How("bn")), "0") == [1, 3, 5]
    with pytest.raises(UsageError, match="no norm with a scale"):
        prune(plain(), torch.rand(1, 3, 8, 8), 0.5, How("bn"))


def test_chance_is_a_function_of_the_seed():
    kept = [tuple(kept_of(plain_net, prune(plain_net, torch.rand(1, 3, 8, 8), 0.5, How("random", seed=seed))))
            for plain_net in [plain(16)] for seed in (0, 0, 1, 2)]  # fmt: skip
    assert kept[0] == kept[1]
    assert len(set(kept)) == 3


def test_unknown_importance_and_missing_gradients_are_told():
    with pytest.raises(UsageError, match=r"unknown importance 'l3'.*l2"):
        prune(plain(), torch.rand(1, 3, 8, 8), 0.5, How("l3"))
    with pytest.raises(UsageError, match="needs gradients"):
        prune(plain(), torch.rand(1, 3, 8, 8), 0.5, How("taylor"))


# how much, and what not


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5, float("nan"), float("inf")])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(UsageError, match="between 0 and 1"):
        prune(plain(), torch.rand(1, 3, 8, 8), ratio, HALF)


def test_a_network_without_anything_to_take_is_refused_with_the_reason():
    with pytest.raises(UsageError, match=r"nothing of Conv2d can be pruned.*makes an output"):
        prune(conv(3, 8), torch.rand(1, 3, 8, 8), 0.5, HALF)
    with pytest.raises(UsageError, match="nothing of ReLU can be pruned"):
        prune(nn.ReLU(), torch.rand(1, 3, 8, 8), 0.5, HALF)
    with pytest.raises(UsageError, match="one channel"):
        prune(plain(1), torch.rand(1, 3, 8, 8), 0.5, HALF)


def test_excluded_parts_keep_their_width():
    net, picture = sample("u2netp"), image("u2netp")
    thin = prune(net, picture, 0.5, HALF, exclude=("stage1", "stage3d.rebnconv2"))
    stages = widths_of(net.stage1), widths_of(thin.stage1)
    assert stages[0] == stages[1]
    assert thin.stage3d.rebnconv2.conv_s1.out_channels == 8
    assert thin.stage3d.rebnconv3.conv_s1.out_channels == 4
    assert thin.stage2.rebnconvin.conv_s1.out_channels == 4
    with pytest.raises(UsageError, match="'stage7' is no part of U2Net, did you mean 'stage"):
        prune(net, picture, 0.5, HALF, exclude=("stage7",))
    with pytest.raises(UsageError, match="is no part"):
        prune(net, picture, 0.5, HALF, exclude=("",))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_layers_keep_multiples(scope):
    torch.manual_seed(0)
    net = find_network("membrane_small").build(width=24).eval()
    thin = prune(net, image("membrane_small"), 0.5, How(scope=scope, round_to=8))
    for path, part in thin.named_modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and path != "head":
            before = channels_of(net.get_submodule(path))
            assert part.out_channels % 8 == 0 or part.out_channels == before, path
            assert part.out_channels >= 8


def test_global_scope_takes_the_least_worthy_and_no_layer_whole():
    torch.manual_seed(0)
    net = Net(lambda n, x: n.c(F.relu(n.b(F.relu(n.a(x))))), a=conv(3, 16), b=conv(16, 16), c=conv(16, 2))
    worth = {"a": torch.linspace(1.0, 2.0, 16), "b": torch.linspace(0.1, 0.9, 16)}
    thin = prune(net, torch.rand(1, 3, 8, 8), 0.25, How(lambda n, group: worth[group.root], "global"))
    assert (thin.a.out_channels, thin.b.out_channels) == (16, 8)
    assert kept_of(Net(None, a=net.a), Net(None, a=thin.a)) == list(range(16))
    most = prune(net, torch.rand(1, 3, 8, 8), 0.6, How(lambda n, group: worth[group.root], "global"))
    assert most.b.out_channels == 2  # a quarter of its own share, 0.4 * 16
    assert most.a.out_channels == 11


def test_rounds_end_where_one_does():
    net, picture = sample("membrane_small"), image("membrane_small")
    full, left = full_widths(free(net, picture)), net
    for share in (0.2, 0.4, 0.6):
        left = prune(left, picture, share, HALF, full=full)
    assert widths_of(left) == widths_of(prune(net, picture, 0.6, HALF))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_share_of_the_macs_is_met_closely(scope):
    torch.manual_seed(0)
    net, picture = find_network("plain_unet").build(width=32).eval(), image("plain_unet")
    whole, how = count_macs(net, (64, 64)), How(scope=scope)
    ratio = ratio_for_macs(net, picture, 0.3 * whole, (64, 64), how)
    share = count_macs(prune(net, picture, ratio, how), (64, 64)) / whole
    assert 0.25 < share <= 0.3
    with pytest.raises(UsageError, match=r"can't be.*remain"):
        ratio_for_macs(net, picture, 0.0001 * whole, (64, 64), how)


# a named number of channels, and a student from its teacher


def test_named_layers_keep_so_many_and_the_best():
    torch.manual_seed(0)
    net, picture = sample("membrane_small"), image("membrane_small")
    thin = prune_to(net, picture, {"down1.0": 3, "bottom.3": 5})
    assert thin.down1.get_submodule("0").out_channels == 3
    changed = {path for path, part in thin.named_modules() if sized(part) and channels_of(part) != 8 and path != "head"}
    assert changed == {"down1.0", "down1.1", "bottom.3", "bottom.4"}
    down = next(group for group in couple(net, picture) if group.root == "down1.0")
    best = sorted(np.argsort(find_importance("l2")(net, down).numpy())[-3:].tolist())
    assert kept_of(net, thin, "down1.0") == best
    everything = prune_to(net, picture, {"down1.0": 8})
    assert all(torch.equal(a, b) for a, b in zip(run(net, picture), run(everything, picture), strict=True))


@pytest.mark.parametrize(
    ("keep", "told"),
    [
        ({"down9.0": 3}, "no layer 'down9.0', did you mean 'down"),
        ({"down1.0": 9}, "has 8 channels and can't keep 9"),
        ({"down1.0": 0}, "can't keep 0"),
        ({"head": 0}, "can't keep 0"),
        ({"down1.1": 4, "down1.0": 3}, "can't keep 3.*which it goes with"),
    ],
)
def test_impossible_counts_are_refused(keep, told):
    with pytest.raises(UsageError, match=told):
        prune_to(sample("membrane_small"), image("membrane_small"), keep)


def test_outputs_can_not_be_cut_by_name():
    with pytest.raises(UsageError, match="'head' has to stay as wide as it is: it makes an output"):
        prune_to(sample("plain_unet"), image("plain_unet"), {"head": 3})


@pytest.mark.parametrize("name", ["u2netp", "lraspp_small", "cyclegan", "csrnet", "iizuka"])
def test_an_equal_student_is_an_exact_copy(name):
    torch.manual_seed(9)
    student = find_network(name).build(width=8).eval()
    copied, total = student_from(sample(name), student, image(name))
    assert copied == total > 0
    assert all(torch.equal(a, b) for a, b in zip(run(sample(name), image(name)), run(student, image(name)),
                                                 strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("u2net_big", "u2netp"), ("membrane_gan", "membrane_small"), ("colorizer", "colorizer"), ("iizuka", "iizuka")],
)
def test_a_narrower_student_is_the_pruned_teacher(teacher, student):
    torch.manual_seed(9)
    small = find_network(student).build(width=4).eval()
    before = state_of(sample(teacher))
    copied, total = student_from(sample(teacher), small, image(teacher))
    assert copied == total
    roots = [group.root for group in couple(sample(teacher), image(teacher)) if not group.why]
    keep = {root: channels_of(small.get_submodule(root)) for root in roots}
    wanted = prune_to(sample(teacher), image(teacher), keep)
    assert all(torch.equal(a, b) for a, b in zip(run(wanted, image(teacher)), run(small, image(teacher)), strict=True))
    assert all(torch.equal(before[key], value) for key, value in sample(teacher).state_dict().items())


def test_layers_that_differ_keep_their_own_start():
    torch.manual_seed(0)
    teacher = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 2))
    wider = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 12), nn.ReLU(), conv(12, 2))
    own = state_of(wider)
    assert student_from(teacher, wider, torch.rand(1, 3, 8, 8)) == (1, 3)
    rows = [next(i for i, w in enumerate(teacher[0].weight) if torch.equal(w, mine)) for mine in wider[0].weight]
    assert rows == sorted(rows)
    assert all(torch.equal(own[key], wider.state_dict()[key]) for key in own if key[0] in "24")
    other = find_network("csrnet").build(width=8)
    assert student_from(teacher, other, torch.rand(1, 3, 8, 8))[0] == 0


# widths


def opened(folder, widths):
    return Safetensors().module(folder, with_files(record(network_options={"width": 8}, widths=widths), folder))


def manifest(changes):
    widths = widths_of(halved("u2netp"))
    return widths | changes


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stage1.rebnconv1.conv_x": [4, 4, 3, 3]}, "no layer 'stage1.rebnconv1.conv_x'.*did you mean"),
        ({"stage1": [4, 4, 3, 3]}, "no layer 'stage1'"),
        ({"": [1]}, "no layer ''"),
        ({"stage1.rebnconvin.conv_s1": [10**12, 3, 3, 3]}, "wanted 1 to"),
        ({"stage1.rebnconvin.conv_s1": [0, 3, 3, 3]}, "wanted 1 to"),
        ({"stage1.rebnconvin.conv_s1": [-4, 3, 3, 3]}, "wanted 1 to"),
        ({"stage1.rebnconvin.conv_s1": [4, 3, 1, 1]}, "kernel"),
        ({"stage1.rebnconvin.conv_s1": [4, 3]}, "4 whole numbers"),
        ({"stage1.rebnconvin.bn_s1": [4, 4]}, "1 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": 4}, "4 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": "4333"}, "4 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": [4.0, 3, 3, 3]}, "4 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": [True, 3, 3, 3]}, "4 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": None}, "4 whole numbers"),
        ({"stage1.rebnconvin.conv_s1": [4, 1, 3, 3]}, "don't fit each other"),
        ({"stage2.rebnconv1.bn_s1": [3]}, "don't fit each other"),
    ],
)
def test_hostile_widths_are_refused(changes, told, tmp_path):
    Safetensors().write(halved("u2netp"), tmp_path)
    with pytest.raises(ArtifactError, match=told):
        opened(tmp_path, manifest(changes))


def test_every_wrong_width_is_named_and_a_list_is_none(tmp_path):
    Safetensors().write(halved("u2netp"), tmp_path)
    with pytest.raises(ArtifactError, match=r"(?s)'a'.*'b'"):
        opened(tmp_path, manifest({"a": [1], "b": [1]}))
    with pytest.raises(ArtifactError, match="found list"):
        opened(tmp_path, [["stage1", [1]]])


def test_other_widths_than_the_weights_are_refused(tmp_path):
    Safetensors().write(halved("u2netp"), tmp_path)
    with pytest.raises(ArtifactError, match="wrong shape"):
        opened(tmp_path, {})
    with pytest.raises(ArtifactError, match="wrong shape"):
        quarter = widths_of(prune(sample("u2netp"), image("u2netp"), 0.25, HALF))
        opened(tmp_path, quarter)


def test_a_manifest_of_before_has_no_widths():
    plain_record = to_json(record())
    del plain_record["widths"]
    assert from_json(type(record()), plain_record).widths == {}


def test_what_is_cut_by_hand_is_what_is_cut():
    torch.manual_seed(0)
    net, picture = plain(8), torch.rand(1, 3, 8, 8)
    coupled = free(net, picture)
    kept = choose(net, coupled, 0.5, HALF)["a"]
    thin = cut(net, coupled, {"a": kept})
    assert torch.equal(thin.a.weight, net.a.weight[kept])
    assert torch.equal(thin.a.bias, net.a.bias[kept])
    assert torch.equal(thin.b.weight, net.b.weight[:, kept])
    assert torch.equal(thin.b.bias, net.b.bias)
