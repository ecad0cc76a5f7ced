"""Folded batch norms given statistics again: nothing changes in eval mode, and next to nothing when training starts."""

import copy

import pytest
import torch
from tiny_store import season
from torch import nn

from compress.core.networks import find_network
from compress.kit.graph import fold_batch_norm
from compress.kit.nets.refit import folded_norms, refit_norms


def folded_copy(net, like):
    """Put a network's folded weights into a fresh one whose norms change nothing, as imports do."""
    folded = dict(fold_batch_norm(net).named_modules())
    with torch.no_grad():
        for path, part in like.named_modules():
            if isinstance(part, nn.Conv2d):
                part.weight.copy_(folded[path].weight)
                part.bias.copy_(folded[path].bias)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.zero_()
                part.running_var.fill_(1)
                part.bias.zero_()
                part.weight.copy_(torch.sqrt(part.running_var + part.eps))
    return like


@pytest.fixture
def moved():
    torch.manual_seed(0)
    net = find_network("u2netp").build(width=4).eval()
    season(net)
    return folded_copy(net, find_network("u2netp").build(width=4)).eval()


def test_eval_mode_stays_and_train_mode_comes_near_it(moved):
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = moved(images)[0]
        lost = copy.deepcopy(moved).train()(images)[0] - before
    norms = [norm for norm in moved.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert refit_norms(moved, images.split(4)) == len(norms)
    assert not moved.training
    with torch.no_grad():
        torch.testing.assert_close(moved(images)[0], before, rtol=1e-4, atol=1e-4)
        kept = moved.train()(images)[0] - before
    assert kept.abs().mean() < 0.02 * lost.abs().mean()


def test_statistics_are_those_of_all_pictures(moved):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    norm = moved.stage1.rebnconvin.bn_s1
    with torch.no_grad():
        seen = moved.stage1.rebnconvin.conv_s1(images)
    refit_norms(moved, images.split(2))
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, seen.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


def test_norms_that_do_something_are_left_alone():
    torch.manual_seed(0)
    net = find_network("u2netp").build(width=4)
    assert folded_norms(net) == []  # a fresh norm is no folded one: it divides by sqrt(1 + eps)
    season(net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert refit_norms(net, [torch.rand(2, 3, 32, 32)]) == 0
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_no_pictures_change_nothing(moved):
    before = {key: value.clone() for key, value in moved.state_dict().items()}
    assert refit_norms(moved, []) == 0
    assert all(torch.equal(before[key], value) for key, value in moved.state_dict().items())
