"""What the README promises exists: its commands, its flags, its network."""

import importlib
import re
import sys
import types

import pytest
import torch
from conftest import ROOT

from compress import cli
from compress.core.networks import find_network
from compress.jobs.flags import describe, functions_of
from compress.tasks import TASKS

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (?:\S+ && )*(compress \S+.*?|benchmarks \S+.*?|reports \S+.*?)(?:\s+#.*)?$", README, re.M)


def test_the_network_of_the_readme_registers_and_runs(monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    module = types.ModuleType("students.mynet")
    monkeypatch.setitem(sys.modules, "students.mynet", module)
    exec(compile(code, "mynet.py", "exec"), module.__dict__)
    network = module.__member__
    assert network.name == "mynet"
    (output,) = network.build(width=8)(torch.zeros(2, 3, 32, 32))
    assert output.shape == (2, 1, 32, 32)


@pytest.mark.parametrize("line", [part.strip() for line in COMMANDS for part in line.split(";")])
def test_commands_and_flags_of_the_readme_exist(line):
    program, command, *words = line.split()
    flags = {word for word in words if word.startswith("--")}
    if program == "compress":
        method = command.replace("-", "_")
        assert method in [*cli.METHODS.names(), "list", "show"]
        source = f"compress.methods.{cli.METHODS.stem(method)}" if method in cli.METHODS else "compress.cli"
    else:
        source = f"{program}.commands"
    module = importlib.import_module(source)
    options = next(getattr(module, name) for name in ("Options", "Build", "Listing") if hasattr(module, name))
    fields = {"--" + name.replace("_", "-") for name in options.__dataclass_fields__} | {"--T"}
    if command == "train":
        network = find_network(words[words.index("--teacher") + 1])
        own = "\n".join(describe(functions_of(network, TASKS.get(network.task))))
        fields |= set(re.findall(r"--[a-z-]+", own.replace("--no-", "--")))
    assert flags <= fields


def test_the_three_lines_of_the_card_are_there():
    assert "compress distill --teacher u2net_big --T 2" in README
    assert "compress quantize --dtype int8" in README
    assert "benchmarks run --target" in README
