import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compress.core.errors import ArtifactError, UsageError
from compress.kit.graph import Taps, count_macs, count_parameters, fold_batch_norm, load_state, read_checkpoint, sqnr
from compress.kit.nets.blocks import ConvBnRelu, Rsu


def shake(module):
    """Give every norm statistics that matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
                part.running_mean.uniform_(-1, 1)
                part.running_var.uniform_(0.5, 2)
                if part.affine:
                    part.weight.uniform_(0.5, 2)
                    part.bias.uniform_(-1, 1)
    return module.eval()


def norms(module):
    return [path for path, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]


def assert_same_output(one, two, channels=3):
    image = torch.randn(2, channels, 12, 14, generator=torch.manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(one(image), two(image), rtol=1e-5, atol=1e-5)


def test_parameters_count_shared_ones_once_and_no_buffers():
    conv = nn.Conv2d(3, 4, 3)
    assert count_parameters(nn.Sequential(conv, nn.BatchNorm2d(4), conv)) == (3 * 4 * 9 + 4) + 8


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, (3, 1), groups=4)
        self.up = nn.ConvTranspose2d(8, 5, 2, stride=2)
        self.head = nn.Linear(5, 7)

    def forward(self, image):
        x = self.up(self.grouped(self.norm(self.wide(image)).relu()))
        return self.head(x.mean((2, 3)))


def test_macs_are_those_counted_by_hand():
    # 20 x 16 -> wide: 10 x 8 -> grouped: 8 x 8 -> up: 16 x 16, each of its inputs meets every weight once
    by_hand = 10 * 8 * 8 * 3 * 9 + 8 * 8 * 8 * (8 // 4) * 3 + 8 * 8 * 8 * 5 * 4 + 5 * 7
    assert count_macs(Mixed(), (20, 16)) == by_hand


def test_counting_macs_leaves_the_network_as_it_was():
    net = Mixed().train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    count_macs(net, (20, 16))
    assert net.training
    assert net.norm.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_macs_grow_with_the_area_and_the_channels_given():
    conv = nn.Conv2d(1, 2, 3, padding=1)
    assert count_macs(conv, (4, 6), channels=1) == 4 * 6 * 2 * 9
    assert count_macs(conv, (8, 6), channels=1) == 2 * count_macs(conv, (4, 6), channels=1)


@pytest.mark.parametrize("dilated", [False, True])
def test_folding_an_rsu_leaves_no_norm(dilated):
    block = shake(Rsu(4, 3, 6, 5, dilated=dilated))
    folded = fold_batch_norm(block)
    assert norms(folded) == []
    assert_same_output(folded, block)


def test_folding_sequential_neighbours_of_every_kind():
    net = shake(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=3),
            nn.BatchNorm2d(6, affine=False),
            nn.ConvTranspose2d(6, 4, 2, stride=2),
            nn.BatchNorm2d(4),
        )
    )
    folded = fold_batch_norm(net)
    assert norms(folded) == []
    assert_same_output(folded, net)


class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.watched = nn.Conv2d(4, 4, 3)
        self.after = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1)
        self.late = nn.BatchNorm2d(4)

    def forward(self, image):
        x = self.norm(self.conv(image)).relu()
        raw = self.watched(x)
        x = self.after(raw) + raw
        return self.late(self.twice(self.twice(x)))


def test_folding_follows_the_graph_and_spares_what_others_read():
    net = shake(Loose())
    folded = fold_batch_norm(net)
    assert norms(folded) == ["after", "late"]
    assert_same_output(folded, net)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = ConvBnRelu(3, 4)
        self.conv = nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image):
        x = self.block(image)
        return self.norm(self.conv(x)) if image.mean() > -9 else x  # what values decide can't be traced


def test_folding_what_can_not_be_traced_still_folds_the_blocks():
    net = shake(Branching())
    folded = fold_batch_norm(net)
    assert norms(folded) == ["norm"]
    assert_same_output(folded, net)


def test_folding_spares_shared_parts_and_norms_without_statistics():
    conv = nn.Conv2d(3, 3, 3)
    net = shake(
        nn.Sequential(
            conv,
            nn.BatchNorm2d(3),
            conv,
            nn.Conv2d(3, 3, 1),
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.ConvTranspose2d(3, 3, 1, groups=3),
            nn.BatchNorm2d(3),
        )
    )
    folded = fold_batch_norm(net)
    assert norms(folded) == ["1", "4", "6"]
    assert_same_output(folded, net)


def test_folding_leaves_the_original_alone():
    net = shake(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    folded = fold_batch_norm(net)
    assert net.training
    assert not folded.training
    assert norms(net) == ["1"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_taps_see_the_last_call_and_only_while_open():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU()))
    first, second = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    with Taps(net, ["0", "1.0"]) as seen:
        net(first)
        output = net(second)
    net(first)
    assert torch.equal(seen["1.0"], output)
    assert torch.equal(seen["0"], net[0](second))
    assert seen["0"].grad_fn is not None
    assert not net[0]._forward_hooks


def test_taps_are_taken_off_after_an_error():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(RuntimeError, match="channels"), Taps(net, ["0"]):
        net(torch.ones(1, 2, 2, 2))
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(("path", "message"), [("rebnconv9", "did you mean 'rebnconv"), ("", "no part ''")])
def test_an_unknown_tap_is_the_users_mistake(path, message):
    with pytest.raises(UsageError, match=message):
        Taps(Rsu(4, 3, 6, 5), [path])


def test_sqnr_of_known_noise():
    signal = np.array([3.0, -4.0], np.float32)  # power 25
    assert sqnr(signal, signal + np.array([0.3, 0.4])) == pytest.approx(20.0, abs=1e-6)
    assert sqnr(signal, 2 * signal) == pytest.approx(0.0)
    assert sqnr(signal, signal) == float("inf")
    assert sqnr(np.zeros(2), signal) == float("-inf")
    assert np.isnan(sqnr(signal, np.array([3.0, np.nan])))


def test_sqnr_of_rounding_is_six_decibels_a_bit():
    values = np.random.default_rng(0).uniform(-1, 1, 100_000)
    coarse, fine = (np.round(values * 2**bits) / 2**bits for bits in (5, 6))
    assert sqnr(values, fine) - sqnr(values, coarse) == pytest.approx(6.02, abs=0.1)


def test_load_state_fills_the_module():
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_state(target, {key: value.double() for key, value in source.state_dict().items()})
    assert torch.equal(target.weight, source.weight)


def test_load_state_names_every_difference_and_changes_nothing():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = net[0].weight.clone()
    state = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(3), "1.bias": torch.ones(2), "head": torch.ones(1)}
    with pytest.raises(ArtifactError) as caught:
        load_state(net, state)
    message = str(caught.value)
    for part in ("1 missing: 1.weight", "1 unexpected: head", "1 wrong shape: 0.bias 3, wanted 2"):
        assert part in message
    assert torch.equal(net[0].weight, before)


def test_load_state_names_every_key():
    net = nn.Sequential(*(nn.Linear(1, 1) for _ in range(8)))
    with pytest.raises(ArtifactError, match=r"16 missing: (\d\.\w+, ){15}\d\.\w+; check"):
        load_state(net, {})


def test_load_state_forgives_absent_counters():
    source, target = shake(nn.BatchNorm2d(2)), nn.BatchNorm2d(2)
    target.num_batches_tracked.fill_(5)
    state = {key: value for key, value in source.state_dict().items() if key != "num_batches_tracked"}
    load_state(target, state)
    assert torch.equal(target.running_var, source.running_var)
    assert target.num_batches_tracked == 0


WEIGHTS = {"conv.weight": torch.arange(4.0), "conv.bias": torch.ones(1)}


def prefixed(prefix):
    return {prefix + key: value for key, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3, "lr": 0.1},
        {"model": prefixed("module."), "epoch": 3},
        prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."),
        {"model_state_dict": WEIGHTS},
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_weights_are_read_out_of_their_wrappers(tmp_path, content, suffix):
    torch.save(content, tmp_path / f"net{suffix}")
    state = read_checkpoint(tmp_path / f"net{suffix}")
    assert set(state) == set(WEIGHTS)
    assert torch.equal(state["conv.weight"], WEIGHTS["conv.weight"])


def test_safetensors_are_read(tmp_path):
    save_file(prefixed("module."), tmp_path / "net.safetensors")
    state = read_checkpoint(str(tmp_path / "net.safetensors"))
    assert torch.equal(state["conv.weight"], WEIGHTS["conv.weight"])


def test_a_prefix_that_not_every_key_has_is_part_of_the_name(tmp_path):
    torch.save({"module.weight": torch.ones(1), "other.weight": torch.ones(1)}, tmp_path / "net.pt")
    assert set(read_checkpoint(tmp_path / "net.pt")) == {"module.weight", "other.weight"}


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("write", ["torch", "legacy", "pickle"])
def test_code_in_a_checkpoint_never_runs(tmp_path, write, recwarn):
    file, proof = tmp_path / "net.pth", tmp_path / "it-ran"
    content = {"conv.weight": Hostile(proof)}
    if write == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(ArtifactError, match="damaged or holds more than named tensors"):
        read_checkpoint(file)
    assert not proof.exists()
    assert not recwarn.list
    pickle.loads(pickle.dumps(content))
    assert proof.exists()  # the trap does work when it is stepped on


def whole_module(file):
    torch.save(nn.Linear(2, 2), file)


def truncated(file):
    torch.save(WEIGHTS, file)
    file.write_bytes(file.read_bytes()[:-200])


def scripted(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(file))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"<html>not found</html>"),
        lambda file: file.write_bytes(b"\xff" * 64),
        whole_module,
        truncated,
        scripted,
    ],
    ids=["empty", "page", "noise", "module", "truncated", "script"],
)
def test_what_is_no_weights_file_is_refused(tmp_path, write, suffix):
    file = tmp_path / f"net{suffix}"
    write(file)
    with pytest.raises(ArtifactError, match=r"'net.* is damaged or holds more than named tensors"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no weights: found dict"),
        (torch.ones(2), "holds no weights: found Tensor"),
        ({"conv.weight": torch.ones(1), "epoch": 3}, "1 entries that are no tensors: epoch"),
        ({3: torch.ones(1)}, "entries that are no tensors: 3"),
    ],
)
def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(tmp_path / "net.pt")


def test_absent_files_folders_and_other_formats_are_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"x")
    (tmp_path / "folder.pt").mkdir()
    for name, message in (("gone.pth", "no weights file"), ("folder.pt", "no weights file"), ("net.onnx", "wanted .s")):
        with pytest.raises(ArtifactError, match=message):
            read_checkpoint(tmp_path / name)
