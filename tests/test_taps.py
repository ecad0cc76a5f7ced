"""Which layers are compared: by name, by scale, as named; adaptors between widths."""

import pytest
import torch
from torch import nn

from compress.core.errors import UsageError
from compress.core.networks import STUDENTS, TEACHERS, find_network
from compress.kit.distill.taps import Adaptors, TapPair, describe, match_taps
from compress.tasks import TASKS


class Net(nn.Module):
    """Halves a picture by each of its stages, and ends on a head at the picture's size."""

    def __init__(self, widths, classes=2, prefix="stage"):
        super().__init__()
        self.names = [f"{prefix}{i}" for i in range(len(widths))]
        channels = 3
        for name, width in zip(self.names, widths, strict=True):
            self.add_module(name, nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width)))
            channels = width
        self.head = nn.Conv2d(channels, classes, 1)
        self.unused = nn.Conv2d(1, 1, 1)
        self.flat = nn.Flatten()

    def forward(self, picture):
        maps = picture
        for name in self.names:
            maps = getattr(self, name)(maps)
        self.flat(maps)
        return (nn.functional.interpolate(self.head(maps), size=picture.shape[2:]),)


class Wrapper(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, picture):
        return self.net(picture)


def paths(pairs):
    return [(pair.student_path, pair.teacher_path, pair.how) for pair in pairs]


def test_equal_paths_that_both_register_pair_by_name():
    student, teacher = Net([4, 6, 8]), Net([8, 6, 16])
    pairs = match_taps(student, teacher, 32, 3, ["stage2", "stage0"], ["stage0", "stage1", "stage2"])
    assert pairs == (
        TapPair("stage0", "stage0", (4, 16, 16), (8, 16, 16), "name"),
        TapPair("stage2", "stage2", (8, 4, 4), (16, 4, 4), "name"),
    )


def test_equal_paths_of_other_sizes_are_no_pair_by_name():
    deep = Net([4, 6, 8, 8])
    deep.names = ["stage1", "stage0", "stage2", "stage3"]
    deep.stage1, deep.stage0 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 2, 1)
    pairs = match_taps(Net([4, 6, 8]), deep, 32, 3, ["stage0"], ["stage0", "stage1"])
    assert paths(pairs) == [("stage0", "stage1", "scale")]


def test_other_names_pair_by_the_last_map_of_each_scale():
    student, teacher = Net([4, 6], prefix="a"), Net([4, 6, 8], prefix="b")
    pairs = match_taps(student, teacher, 32, 3, ["a0", "a1"], ["b1.0", "b1", "b0", "b2"])
    assert paths(pairs) == [("a0", "b0", "scale"), ("a1", "b1", "scale")]
    assert pairs[1].name == "a1=b1"


@pytest.mark.parametrize("size", [30, 33, 50])
def test_scales_are_rounded_where_sides_are_odd(size):
    pairs = match_taps(Net([4, 6, 8], prefix="a"), Net([4, 6, 8], prefix="b"), size, 3)
    assert paths(pairs) == [(f"a{i}", f"b{i}", "scale") for i in range(3)]


def test_networks_that_register_nothing_offer_their_parts_without_the_heads():
    pairs = match_taps(Net([4, 6]), Net([8, 6]), 16, 3)
    assert paths(pairs) == [("stage0", "stage0", "scale"), ("stage1", "stage1", "scale")]


def test_a_wrapper_is_looked_into():
    pairs = match_taps(Wrapper(Wrapper(Net([4, 6]))), Net([8, 6]), 16, 3)
    assert paths(pairs) == [("net.net.stage0", "stage0", "scale"), ("net.net.stage1", "stage1", "scale")]


def test_a_head_behind_a_view_or_a_crop_is_still_a_head():
    class Cropped(Net):
        def forward(self, picture):
            maps = self.head(self.stage0(picture))
            return (maps[..., 1:],)

    pairs = match_taps(Cropped([4], classes=5), Net([8]), 16, 3)
    assert paths(pairs) == [("stage0", "stage0", "scale")]


def test_named_layers_are_taken_as_they_are():
    student, teacher = Net([4, 6]), Net([8, 6, 5])
    pairs = match_taps(student, teacher, 32, 3, wanted={"stage1": "stage0", "stage0.1": "stage0"})
    assert pairs == (
        TapPair("stage1", "stage0", (6, 8, 8), (8, 16, 16), "given"),
        TapPair("stage0.1", "stage0", (4, 16, 16), (8, 16, 16), "given"),
    )


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"stag1": "stage0"}, r"no part 'stag1', did you mean 'stage1'"),
        ({"stage1": "stage9"}, r"no part 'stage9', did you mean 'stage"),
        ({"unused": "stage0"}, r"Net: 'unused' is not run, wanted maps \(N, C, H, W\)"),
        ({"flat": "stage0"}, r"Net: 'flat' gives \(1, 384\)"),
    ],
)
def test_named_layers_that_can_t_be_compared_are_refused(wanted, said):
    with pytest.raises(UsageError, match=said):
        match_taps(Net([4, 6]), Net([8, 6, 5]), 32, 3, wanted=wanted)


def test_registered_taps_that_don_t_exist_are_refused():
    with pytest.raises(UsageError, match="no part 'stage7'"):
        match_taps(Net([4, 6]), Net([8, 6]), 32, 3, ["stage7"], ["stage0"])


def test_nothing_in_common_is_refused_with_both_lists():
    with pytest.raises(UsageError, match=r"found stage0 4x16x16 against stage2 8x4x4") as caught:
        match_taps(Net([4, 6, 8]), Net([8, 8, 8]), 32, 3, ["stage0"], ["stage2"])
    assert "[taps]" in caught.value.hint


def test_neither_network_changes():
    student, teacher = Net([4, 6]).train(), Net([8, 6]).eval()
    student.stage0.eval()
    kept = [{key: value.clone() for key, value in net.state_dict().items()} for net in (student, teacher)]
    match_taps(student, teacher, 16, 3)
    assert student.training
    assert not student.stage0.training
    assert student.stage1.training
    assert not teacher.training
    for net, state in zip((student, teacher), kept, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert not any(part._forward_hooks for part in net.modules())
        assert all(parameter.grad is None for parameter in net.parameters())


def test_modes_come_back_where_the_network_fails():
    class Broken(Net):
        def forward(self, picture):
            raise RuntimeError("as it happens")

    net = Broken([4]).train()
    with pytest.raises(RuntimeError, match="as it happens"):
        match_taps(net, Net([4]), 16, 3)
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())


def test_the_table_lines_up():
    pairs = match_taps(Net([4, 6]), Net([8, 6]), 32, 3, wanted={"stage0": "stage0", "stage1": "stage1"})
    lines = describe(pairs)
    assert lines[0].split() == ["student", "teacher", "matched", "by", "adaptor"]
    assert lines[1].split() == ["stage0", "4x16x16", "stage0", "8x16x16", "given", "4", "to", "8"]
    assert lines[2].split()[-1] == "-"
    assert lines[1].index("given") == lines[2].index("given") == lines[0].index("matched")
    assert len(describe(())) == 1


TAUGHT = [
    (student, teacher)
    for teacher in TEACHERS.names()
    for student in STUDENTS.names()
    if TEACHERS.get(teacher).task == STUDENTS.get(student).task
    and (TEACHERS.get(teacher).student == student or not TEACHERS.get(teacher).student)
]


# other layers, or layers of the same names at other scales
STRANGERS = [("retouch_small", "cyclegan"), ("retouch_small", "pix2pix"), ("retouch_small", "csrnet")]


@pytest.mark.parametrize(("student", "teacher"), TAUGHT)
def test_every_teacher_pairs_with_its_student(student, teacher):
    mine, theirs = find_network(student), find_network(teacher)
    size = 64
    pairs = match_taps(
        mine.build(width=4), theirs.build(width=4), size, TASKS.get(mine.task).input.channels, mine.taps, theirs.taps
    )
    assert pairs
    for pair in pairs:
        assert pair.student_path in mine.taps
        assert pair.teacher_path in theirs.taps
        ratio = pair.student_shape[1] / pair.teacher_shape[1]
        assert 0.7 < ratio < 1.45
    assert {pair.how for pair in pairs} == {"scale" if (student, teacher) in STRANGERS else "name"}


# -- adaptors


def pair(student, teacher):
    return TapPair("a", "b", (student, 4, 4), (teacher, 4, 4), "scale")


def test_adaptors_widen_what_differs_and_leave_the_rest():
    adaptors = Adaptors([pair(3, 5), pair(4, 4), pair(6, 2)])
    maps = [torch.randn(2, channels, 4, 4) for channels in (3, 4, 6)]
    found = adaptors(maps)
    assert [part.shape[1] for part in found] == [5, 4, 2]
    assert found[1] is maps[1]
    first = adaptors.parts[0]
    wanted = torch.einsum("oi,nihw->nohw", first.weight[:, :, 0, 0], maps[0]) + first.bias[None, :, None, None]
    assert torch.allclose(found[0], wanted, atol=1e-6)
    assert sum(p.numel() for p in adaptors.parameters()) == 3 * 5 + 5 + 6 * 2 + 2
    found[0].sum().backward()
    assert first.weight.grad.abs().sum() > 0


def test_adaptors_follow_their_seed_and_leave_torch_s_own_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (Adaptors([pair(3, 5), pair(6, 2)], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(p.abs().max() <= 3**-0.5 for p in one.parts[0].parameters())
    assert one.parts[0].weight.std() > 0.1


def test_adaptors_without_pairs_have_nothing_to_learn():
    assert Adaptors([])([]) == []
    assert not list(Adaptors([pair(4, 4)]).parameters())
