"""Networks of a user's own: found by package.module:function, wrapped, imported, rebuilt from the manifest."""

import itertools
import json
import sys

import pytest
import torch

from compress import cli
from compress.core.errors import ArtifactError, UsageError
from compress.core.launch import launch
from compress.core.networks import find_network, is_reference, kind_of
from compress.core.store import Store
from compress.jobs.foreign import Reading
from compress.jobs.models import as_onnx, load_module
from compress.jobs.users import import_user
from compress.kit.graph import count_parameters, fold_batch_norm

_COUNT = itertools.count()
HEAD = "import torch\nfrom torch import nn\n\n"
NET = """
class Net(nn.Module):
    def __init__(self, width=4, ending="raw", form="tuple"):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.side = nn.Conv2d(width, 1, 1)
        self.head = nn.Conv2d(width, 1, 1)
        self.ending, self.form = ending, form

    def forward(self, image):
        x = torch.relu(self.norm(self.conv(image)))
        first, second = self.head(x) - 0.2, self.side(x)
        if self.ending == "sigmoid":
            first, second = torch.sigmoid(first), torch.sigmoid(second)
        return {"tensor": first, "tuple": (first, second), "list": [first, second, x.mean()],
                "dict": {"out": first, "aux": second}}[self.form]


def build(width: int = 4, form: str = "tuple"):
    return Net(width, "raw", form)


def masks(width: int = 4):
    return Net(width, "sigmoid")
"""


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        launch(cli.app, [str(a) for a in arguments])
    return stopped.value.code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package into the working directory and return what writes its modules and names them."""
    name = f"userpackage{next(_COUNT)}"  # an import is kept: each test has its own
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source, module="nets"):
        (tmp_path / name / f"{module}.py").write_text(HEAD + source)
        return f"{name}.{module}"

    return write


def weights(reference, path, **options):
    torch.manual_seed(3)
    net = find_network(reference, "saliency").build(**options).theirs
    torch.save(net.state_dict(), path)
    return net.eval()


@pytest.mark.parametrize("form", ["tensor", "tuple", "list", "dict"])
def test_every_form_of_answer_becomes_a_tuple(package, form):
    network = find_network(f"{package(NET)}:build", "saliency")
    assert (network.task, network.size, network.stride, network.taps) == ("saliency", 320, 1, ())
    net = network.build(form=form).eval()
    with torch.no_grad():
        outputs = net(torch.randn(2, 3, 8, 8))
    assert isinstance(outputs, tuple)
    assert [tuple(o.shape) for o in outputs] == [(2, 1, 8, 8)] * (1 if form == "tensor" else 2)
    assert kind_of(network.name) == "teacher"


def test_activated_outputs_are_turned_back(package):
    module = package(NET)
    torch.manual_seed(0)
    raw = find_network(f"{module}:build", "saliency").build().eval()
    torch.manual_seed(0)
    undone = find_network(f"{module}:masks", "saliency").build(activated=True).eval()
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for a, b in zip(raw(image), undone(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def test_batch_norm_is_folded_in_the_middle_of_a_strangers_forward(package):
    net = find_network(f"{package(NET)}:build", "saliency").build(form="dict").eval()
    folded = fold_batch_norm(net)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    image = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(image)[0], net(image)[0])


@pytest.mark.parametrize(
    ("source", "function", "words"),
    [
        ("x = 1", "build", "has no function 'build'"),
        ("def biuld():\n    pass", "build", "did you mean 'biuld'"),
        ("build = 3", "build", "'s build is a int"),
        ("def build():\n    return 'text'", "build", "built a str, wanted an nn.Module"),
        ("def build():\n    raise ValueError('no luck')", "build", "ValueError: no luck"),
        ("def build(width):\n    return nn.Conv2d(3, width, 1)", "build", "width"),
        ("raise RuntimeError('at import')", "build", "RuntimeError: at import"),
        ("raise SystemExit(3)", "build", "SystemExit: 3"),
        ("import no_such_module_of_theirs", "build", "no_such_module_of_theirs"),
        ("def build(activated=True):\n    return nn.Identity()", "build", "'activated', which is a flag of ours"),
    ],
)
def test_what_can_not_be_built_is_refused_in_one_line(package, source, function, words):
    with pytest.raises(UsageError) as refused:
        find_network(f"{package(source)}:{function}", "saliency").build()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_that_are_no_references(package):
    with pytest.raises(UsageError, match=r"no 'nowhere_at_all'.*PYTHONPATH"):
        find_network("nowhere_at_all.nets:build", "saliency")
    with pytest.raises(UsageError, match="Python's own library"):
        find_network("os:system", "saliency")
    with pytest.raises(UsageError, match="unknown network"):
        find_network("not a:name", "saliency")
    with pytest.raises(UsageError, match="give --task"):
        find_network(f"{package(NET)}:build")
    assert not is_reference("u2netp")


def test_a_decorated_builder_says_its_own_task(package):
    source = "from compress.core.networks import network\n" + NET
    module = package(source + '\n\n@network(task="saliency", size=64, stride=1, taps=("conv",))\ndef own():\n'
                     '    return Net()\n')  # fmt: skip
    network = find_network(f"{module}:own")
    assert (network.name, network.task, network.size) == (f"{module}:own", "saliency", 64)
    with pytest.raises(UsageError, match="is for saliency"):
        find_network(f"{module}:own", "membrane")


def test_import_loads_the_weights_and_the_manifest_rebuilds_it(package, tmp_path, capsys):
    reference = f"{package(NET)}:build"
    net = weights(reference, tmp_path / "net.pth", width=5)
    store = Store(tmp_path / "s")
    line = ["import", "--teacher", reference, tmp_path / "net.pth", "--task", "saliency", "--size", 32,
            "--scale", "max", "--store", store.root]  # fmt: skip
    assert run(*line) == 4  # another width
    assert run(*line, "--width", 5) == 0
    assert run(*line, "--width", 5) == 0
    (artifact,) = store.artifacts()
    assert (artifact.network, artifact.task, artifact.kind) == (reference, "saliency", "teacher")
    assert artifact.network_options == {"width": 5, "form": "tuple", "activated": False}
    assert (artifact.input.scale, artifact.input.height, artifact.input.dynamic) == ("max", 32, True)
    assert artifact.parameters == count_parameters(net)
    assert artifact.macs == 32 * 32 * (27 * 5 + 5 + 5)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_module(store, artifact)(image)[0], net(image)[0])


def test_evaluate_and_export_work_on_it(package, tmp_path, capsys):
    reference = f"{package(NET)}:build"
    weights(reference, tmp_path / "net.pth", width=16)
    store = Store(tmp_path / "s")
    artifact = import_user(store, reference, tmp_path / "net.pth", Reading(size=32), options={"width": 16})
    common = ["--model", artifact.id, "--store", store.root]
    assert run("evaluate", *common, "--json", "--no-baseline", "--quiet") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] > 0
    assert as_onnx(store, artifact).is_file()


@pytest.mark.slow
def test_quantize_works_on_it(package, tmp_path):
    reference = f"{package(NET)}:build"
    weights(reference, tmp_path / "net.pth", width=16)
    store = Store(tmp_path / "s")
    artifact = import_user(store, reference, tmp_path / "net.pth", Reading(size=32), options={"width": 16})
    common = ["--model", artifact.id, "--store", store.root]
    quick = ["--calibration", 2, "--selection", 1, "--tune", "none", "--force", "--size", 32]
    assert run("quantize", *common, *quick, "--quiet") == 0
    child = store.artifacts()[-1]
    assert (child.parent, child.network) == (artifact.id, reference)


def test_a_builder_that_loads_its_own_weights_needs_no_file(package, tmp_path):
    loaded = "\n\ndef loaded():\n    net = Net()\n    nn.init.constant_(net.head.bias, 7.0)\n    return net\n"
    reference = f"{package(NET + loaded)}:loaded"
    store = Store(tmp_path / "s")
    line = ["import", "--teacher", reference, "--task", "saliency", "--size", 32, "--store", store.root]
    assert run(*line, "--name", "theirs") == 0
    (artifact,) = store.artifacts()
    assert artifact.name == "theirs"
    assert load_module(store, artifact).theirs.head.bias.item() == 7.0
    assert run("import", "--store", store.root) == 2


def test_a_network_that_ends_on_its_activation_is_noticed(package, tmp_path):
    reference = f"{package(NET)}:masks"
    store = Store(tmp_path / "s")
    reading = Reading(size=32)
    with pytest.raises(UsageError, match=r"after its activation.*--activated"):
        import_user(store, reference, None, reading)
    artifact = import_user(store, reference, None, reading, activated=True)
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        module = load_module(store, artifact)
        torch.testing.assert_close(torch.sigmoid(module(image)[0]), module.theirs(image)[0], rtol=0, atol=1e-5)
    assert import_user(store, reference, None, reading, activated=False).network_options["activated"] is False


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return image.mean((2, 3))", "wanted a picture"),
        ("return None", "returns a NoneType"),
        ("return image", "wanted (1, 1, H, W)"),
        ("raise KeyError('inside')", "does not run on an image (1, 3, 32, 32)"),
        ("return image[:, :1] / 0", "not finite"),
    ],
)
def test_what_is_no_picture_of_the_task_is_refused(package, tmp_path, body, words):
    source = (
        f"class Net(nn.Module):\n    def forward(self, image):\n        {body}\n\n\ndef build():\n    return Net()\n"
    )
    with pytest.raises(ArtifactError) as refused:
        import_user(Store(tmp_path / "s"), f"{package(source)}:build", None, Reading(size=32))
    assert words in str(refused.value)


def test_without_the_package_the_message_says_where_to_run(package, tmp_path, monkeypatch):
    module = package(NET)
    store = Store(tmp_path / "s")
    artifact = import_user(store, f"{module}:build", None, Reading(size=32))
    for name in [name for name in sys.modules if name.startswith(module.partition(".")[0])]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sys.path.remove(str(tmp_path))
    with pytest.raises(ArtifactError, match="PYTHONPATH"):
        load_module(store, artifact)
