import hashlib
import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from compress.core.errors import UsageError
from compress.core.networks import find_network
from compress.kit.graph import count_parameters
from compress.kit.nets.blocks import Rsu
from compress.kit.nets.u2net import STAGES, build_u2net, cap_rows, mirrored, read_rows, stage_table

FAMILY = ("u2net", "u2net_big", "u2net_small", "u2net_student", "u2netp")
TINY = mirrored(8, (4, 4, 6, 6, 8, 8))

# sha256 of the sorted lines "key AxBxC" joined by newlines. Made by running the official definition itself
# (github.com/xuebinqin/U-2-Net at ac7e1c8, model/u2net.py, classes U2NET and U2NETP), not ours.
OFFICIAL_KEYS = {
    "u2net": "b7088692aaf11cc41fd8895438f15446f887f00ce58c47449401512043ec5029",
    "u2netp": "ae4e6824e02c55bc12deb2d5d312f5aaf15f476461f1ef316285a7c66dd96b8f",
}
# Mean and standard deviation of the seven logits of the official U2NETP class (same commit, sigmoid undone) with the
# weights and the image of the test below, in float64.
OFFICIAL_MEANS = (-0.183048, 0.645925, -6.808715, 3.56114, -0.294564, -2.791945, 1.894747)
OFFICIAL_STDS = (0.956423, 0.487528, 1.858829, 1.70314, 1.245148, 1.34107, 1.422776)


def full(name):
    with torch.device("meta"):
        return find_network(name).build()


@pytest.mark.parametrize("name", OFFICIAL_KEYS)
def test_keys_and_shapes_are_those_of_the_official_checkpoints(name):
    state = full(name).state_dict()
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items())
    assert len(lines) == 798
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == OFFICIAL_KEYS[name]


def test_outputs_are_those_of_the_official_network():
    net = find_network("u2netp").build()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for _, values in sorted(net.state_dict().items()):
            if values.is_floating_point():
                fan = np.sqrt(values[0].numel())
                new = rng.uniform(0.5, 1, values.shape) if values.ndim == 1 else rng.normal(0, 1, values.shape) / fan
                values.copy_(torch.from_numpy(new))
        image = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, 37, 45)))
        logits = net.double().eval()(image)
    assert [float(x.mean()) for x in logits] == pytest.approx(OFFICIAL_MEANS, abs=1e-5)
    assert [float(x.std()) for x in logits] == pytest.approx(OFFICIAL_STDS, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "megabytes", "tolerance"),
    [
        ("u2net", 44_009_869, 176.3, 0.01),
        ("u2netp", 1_131_181, 4.7, 0.05),  # published as the size of a file with its buffers and key names
        ("u2net_big", 39_287_437, 157, 0.01),
        ("u2net_small", 2_449_645, 9.8, 0.01),
        ("u2net_student", 2_424_157, 9.7, 0.005),
    ],
)
def test_sizes_are_those_of_the_documents(name, parameters, megabytes, tolerance):
    found = count_parameters(full(name))
    assert found == parameters
    assert found * 4 / 1e6 == pytest.approx(megabytes, rel=tolerance)


@pytest.mark.parametrize(("name", "channels"), [("u2net_big", 1024), ("u2net_small", 128)])
def test_lowest_decoder_stage_takes_the_channels_of_the_thesis(name, channels):
    assert full(name).stage5d.rebnconvin.conv_s1.in_channels == channels


@pytest.mark.parametrize("name", FAMILY)
def test_width_caps_every_layer(name):
    net = find_network(name).build(width=8)
    convs = [part for part in net.modules() if isinstance(part, torch.nn.Conv2d)]
    assert max(conv.out_channels for conv in convs) == 8
    assert max(conv.in_channels for conv in convs) == 16  # two maps of 8, concatenated


@pytest.mark.parametrize("size", [(32, 32), (33, 64), (37, 45), (70, 51)], ids=str)
def test_all_seven_outputs_have_the_size_of_the_image(size):
    outputs = build_u2net(TINY).eval()(torch.randn(2, 3, *size))
    assert [tuple(output.shape) for output in outputs] == [(2, 1, *size)] * 7


def test_outputs_are_logits():
    torch.manual_seed(0)
    net = build_u2net(TINY).eval()
    with torch.no_grad():
        net.outconv.bias.fill_(50.0)
        assert net(torch.randn(1, 3, 32, 32))[0].min() > 10


def test_a_dilated_block_is_blind_outside_its_reach_and_keeps_its_size():
    # dilations 1, 2, 4, 8, 4, 2, 1 and the input's 1 reach 23 pixels to each side
    torch.manual_seed(0)
    block = Rsu(4, 1, 2, 1, dilated=True).eval()
    image = torch.zeros(1, 1, 64, 64)
    touched = image.clone()
    touched[0, 0, 32, 32] = 100.0
    with torch.no_grad():
        changed = (block(touched) != block(image))[0, 0].nonzero()
    assert changed.min() >= 32 - 23
    assert changed.max() <= 32 + 23
    assert block(image).shape == image.shape


def test_table_feeds_each_decoder_stage_from_below_and_from_its_twin():
    outs = (1, 2, 3, 4, 5, 6, 50, 40, 30, 20, 10)
    table = stage_table([[4, 2, out] for out in outs])
    assert [stage.in_channels for stage in table] == [3, 1, 2, 3, 4, 5, 6 + 5, 50 + 4, 40 + 3, 30 + 2, 20 + 1]
    assert [name for name, stage in zip(STAGES, table, strict=True) if stage.dilated] == ["stage5", "stage6", "stage5d"]


def test_rows_of_any_widths_survive_json_and_the_network():
    rows = [list(row) for row in TINY]
    rows[2] = [5, [1, 2, 3, 4, 5, 6, 7, 8], 9]  # layers down 1..5, then up 4, 3, 2
    net = build_u2net(TINY, stages=json.loads(json.dumps(rows)))
    assert read_rows(net) == rows
    assert net.stage3.rebnconv5.conv_s1.out_channels == 5
    assert net.stage3.rebnconv4d.conv_s1.out_channels == 6
    assert net.stage3.rebnconv4d.conv_s1.in_channels == 5 + 4
    assert net.eval()(torch.randn(1, 3, 32, 32))[0].shape == (1, 1, 32, 32)


def test_capping_leaves_the_rows_it_was_handed_alone():
    rows = [[7, [9, 10], 64]]
    assert cap_rows(rows, 8) == [[7, [8, 8], 8]]
    assert cap_rows(rows, None) == [[7, [9, 10], 64]] == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "11 stages, found 10"),
        (lambda rows: [*rows[:-1], [7, 4]], "stage1d wants"),
        (lambda rows: [[7, 4, 0], *rows[1:]], "stage1 wants"),
        (lambda rows: [[7, 4.5, 8], *rows[1:]], "stage1 wants"),
        (lambda rows: [[7, [4, 4], 8], *rows[1:]], r"stage1 wants.*2 \* height - 2"),
        (lambda rows: [[1, 4, 8], *rows[1:]], "stage1 wants"),
        (lambda rows: [["7", 4, 8], *rows[1:]], "stage1 wants"),
    ],
)
def test_a_table_that_can_not_be_built_is_the_users_mistake(change, message):
    with pytest.raises(UsageError, match=message):
        build_u2net(TINY, stages=change(TINY))


def test_a_width_of_nothing_is_the_users_mistake():
    with pytest.raises(UsageError, match="stage1 wants"):
        build_u2net(TINY, width=0)


def test_training_starts_alive_and_learns():
    torch.manual_seed(0)
    net = build_u2net(TINY)
    image = torch.randn(4, 3, 32, 32)
    target = (F.avg_pool2d(image, 9, stride=1, padding=4).mean(1, keepdim=True) > 0).float()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(24):
        outputs = net(image)
        if not losses:
            assert all(output.flatten(1).std(1).min() > 1e-3 for output in outputs[:4])
        loss = sum(F.binary_cross_entropy_with_logits(output, target) for output in outputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.9 * losses[0]


def test_one_exported_graph_serves_every_size():
    net = build_u2net(TINY).eval()
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(net, (torch.randn(1, 3, 64, 64),), dynamic_shapes=(sides,)).module()
    image = torch.randn(1, 3, 37, 45)
    torch.testing.assert_close(exported(image)[0], net(image)[0])
