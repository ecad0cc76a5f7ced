"""ONNX files as frozen teachers, and the way back from a picture to the raw output it came from."""

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_store import publish, record
from torch import nn
from torch.nn import functional as F

from compress.core.errors import ArtifactError, UsageError
from compress.core.networks import find_network
from compress.core.store import Store
from compress.core.types import ImageSpec
from compress.jobs.foreign import Reading, import_onnx
from compress.jobs.teachers import Reread, open_teacher, seems_activated
from compress.kit.images import normalized
from compress.kit.ship.outsider import Outsider
from compress.tasks import TASKS

WEIGHT = np.array([0.5, -0.3, 0.8], np.float32).reshape(1, 3, 1, 1)


def write(path, *, batch="n", side=None, head="Sigmoid", weight=WEIGHT, kind=TensorProto.FLOAT):
    """A weighted sum of the colours behind an activation."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    nodes = [helper.make_node("Conv", ["photo", "w"], ["c"]), helper.make_node(head, ["c"], ["mask"])]
    shape = [batch, weight.shape[1], side or "h", side or "w"]
    given = helper.make_tensor_value_info("photo", kind, shape)
    made = helper.make_tensor_value_info("mask", kind, [batch, weight.shape[0], *shape[2:]])
    graph = helper.make_graph(nodes, "g", [given], [made], [numpy_helper.from_array(weight.astype(dtype), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def logits(image):
    return (image.numpy() * WEIGHT).sum(1, keepdims=True)


@pytest.fixture
def image():
    return torch.randn(5, 3, 8, 12, generator=torch.manual_seed(0))


@pytest.mark.parametrize("name", TASKS.names())
def test_raw_is_the_inverse_of_activate(name):
    task = TASKS.get(name)
    generator = torch.manual_seed(0)
    raw = 3 * torch.randn(2, max(task.output.channels, 2), 16, 16, generator=generator)
    picture = task.activate(raw)
    assert (task.activate(task.raw(picture)) - picture).abs().max() < 1e-5
    shares = torch.rand(2, 5, 16, 16, generator=generator)
    low, high = task.output.low, task.output.high
    spread = shares / shares.sum(1, keepdim=True) if task.output.color == "classes" else low + (high - low) * shares
    assert (task.activate(task.raw(spread)) - spread).abs().max() < 1e-5


@pytest.mark.parametrize("name", TASKS.names())
def test_raw_is_finite_to_the_ends_of_the_range_and_beyond(name):
    task = TASKS.get(name)
    low, high = task.output.low, task.output.high
    ends = torch.tensor([low, high, low - 0.1, high + 0.1]).repeat(1, 2, 1, 1)
    raw = task.raw(ends)
    assert torch.isfinite(raw).all()
    assert task.raw(ends.half()).dtype == torch.float32
    if task.output.color == "classes":
        sure = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
        assert (task.activate(task.raw(sure)) - sure).abs().max() < 1e-5
    else:
        clipped = ends.clamp(low, high)
        assert (task.activate(raw) - clipped).abs().max() < 1e-5


@pytest.mark.parametrize("batch", ["n", 1, 2])
def test_any_batch_through_a_file_of_any_batch(tmp_path, image, batch):
    teacher = Outsider(write(tmp_path / "a.onnx", batch=batch), TASKS.get("saliency").raw, threads=1)
    for count in (1, 2, 5):
        (raw,) = teacher(image[:count])
        assert raw.dtype == torch.float32
        np.testing.assert_allclose(raw.numpy(), logits(image[:count]), rtol=1e-4, atol=1e-4)


def test_a_file_of_one_size_gets_and_gives_resized_pictures(tmp_path, image):
    teacher = Outsider(write(tmp_path / "a.onnx", batch=1, side=6), TASKS.get("saliency").raw, threads=1)
    (raw,) = teacher(image)
    small = F.interpolate(image, (6, 6), mode="bilinear", align_corners=False, antialias=True)
    picture = torch.sigmoid(torch.from_numpy(logits(small)))
    large = F.interpolate(picture, (8, 12), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(torch.sigmoid(raw), large, rtol=0, atol=1e-5)


def test_half_precision_files_run(tmp_path, image):
    teacher = Outsider(write(tmp_path / "a.onnx", kind=TensorProto.FLOAT16), TASKS.get("saliency").raw)
    (raw,) = teacher(image)
    np.testing.assert_allclose(raw.numpy(), logits(image), atol=0.05)


def test_it_is_frozen_and_can_be_copied_and_pickled(tmp_path, image):
    teacher = Outsider(write(tmp_path / "a.onnx"), TASKS.get("saliency").raw, threads=1)
    assert not list(teacher.parameters())
    assert not teacher.state_dict()
    assert not teacher.train().training
    (raw,) = teacher(image.requires_grad_())
    assert not raw.requires_grad
    for twin in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert torch.equal(twin.to(memory_format=torch.channels_last)(image)[0], raw)


def test_what_it_can_not_take_is_refused(tmp_path, image):
    teacher = Outsider(write(tmp_path / "a.onnx"))
    with pytest.raises(ArtifactError, match=r"wants images \(N, 3, H, W\), found \(5, 1, 8, 12\)"):
        teacher(image[:, :1])
    (tmp_path / "b.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"b\.onnx"):
        Outsider(tmp_path / "b.onnx")


def test_open_teacher_gives_raw_outputs_of_either_format(tmp_path, image):
    store = Store(tmp_path / "s")
    torch.manual_seed(0)
    net = find_network("u2netp").build(width=4).eval()
    ours = publish(store, record(network_options={"width": 4}), net)
    teacher = open_teacher(store, ours)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(teacher(image), net(image), strict=True))
    theirs = import_onnx(store, write(tmp_path / "a.onnx"), Reading(size=32))
    np.testing.assert_allclose(open_teacher(store, theirs, threads=1)(image)[0], logits(image), rtol=1e-4, atol=1e-4)


def test_a_file_of_raw_outputs_is_taken_as_it_is_and_other_ranges_are_refused(tmp_path, image):
    store = Store(tmp_path / "s")
    raw = import_onnx(store, write(tmp_path / "a.onnx", head="Identity"), Reading(size=32))
    np.testing.assert_allclose(open_teacher(store, raw)(image)[0], logits(image), rtol=1e-5, atol=1e-5)
    loud = import_onnx(store, write(tmp_path / "b.onnx", head="Exp", weight=3 * WEIGHT), Reading(size=32))
    with pytest.raises(ArtifactError, match="or raw outputs"):
        open_teacher(store, loud)


class Seen(nn.Module):
    def forward(self, image):
        return (image,)


@pytest.mark.parametrize("scale", ["255", "max"])
def test_images_prepared_for_the_student_become_the_teachers_own(scale):
    photo = np.random.default_rng(0).integers(0, 180, (8, 8, 3)).astype(np.uint8)
    seen = TASKS.get("saliency").input
    wanted = ImageSpec(scale=scale, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    given = torch.from_numpy(normalized(photo, seen))[None]
    np.testing.assert_allclose(Reread(Seen(), seen, wanted)(given)[0][0], normalized(photo, wanted), atol=1e-5)


def test_a_scale_that_is_lost_is_refused():
    with pytest.raises(UsageError, match="can't become"):
        Reread(Seen(), ImageSpec(scale="max"), ImageSpec(scale="255"))


@pytest.mark.parametrize("name", ["saliency", "retouch", "membrane", "segmentation"])
def test_pictures_given_for_raw_outputs_are_seen(name):
    task = TASKS.get(name)
    raw = torch.randn(1, max(task.output.channels, 2), 8, 8, generator=torch.manual_seed(0))
    assert not seems_activated(task, raw)
    assert seems_activated(task, task.activate(raw))
