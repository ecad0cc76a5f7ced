"""Networks of a user's own, named as package.module:function: looked up, built, and made to answer as ours do."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.core.errors import ArtifactError, CompressError, UsageError, did_you_mean
from compress.core.networks import Network
from compress.core.registry import Room

Raw = Callable[[Tensor], Tensor]
_PLAIN = (bool, int, float, str, *(kind | None for kind in (bool, int, float, str)))
_WANTED = "wanted package.module:function that returns an nn.Module"


class Adopted(nn.Module):
    """A stranger's network behind the contract of ours: image to a tuple of raw outputs, the one that ships first.

    Args:
        theirs: Its forward takes one image (N, C, H, W), and returns a tensor, or a tuple, list or dict of tensors.
        name: What to call it in messages.
        raw: Turns a picture back into a raw output (a task's ``raw``), for networks that end on their activation;
            None for those that give raw outputs.
    """

    def __init__(self, theirs: nn.Module, name: str, raw: Raw | None = None) -> None:
        super().__init__()
        self.theirs, self.name, self.raw = theirs, name, raw

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map image (N, C, H, W) to its maps (N, C', H', W') in the order the network gives them.

        What is no map (a vector, a loss) is left out. Those with the channels of the first are turned back, too.

        Raises:
            ArtifactError: If the first thing the network returns is no map.
        """
        answer = self.theirs(image)
        given = list(answer.values()) if isinstance(answer, Mapping) else answer
        given = list(given) if isinstance(given, tuple | list) else [given]
        if any(isinstance(entry, fx.Proxy) for entry in given):  # who feeds whom is being traced, nothing is computed
            return tuple(given)
        if not (given and _is_map(given[0])):
            raise ArtifactError(f"{self.name} returns {_told(answer)}, wanted a picture (N, C, H, W) or several",
                                hint="let its forward return the one that ships first")  # fmt: skip
        maps = [entry for entry in given if _is_map(entry)]
        if self.raw is None:
            return tuple(maps)
        return tuple(self.raw(entry) if entry.shape[1] == maps[0].shape[1] else entry for entry in maps)


def _is_map(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.ndim == 4 and entry.is_floating_point()


def _told(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of {answer.dtype} {tuple(answer.shape)}"
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if isinstance(answer, tuple | list) and answer:
        first = answer[0]
        return f"a {type(answer).__name__} whose first is {_told(first) if isinstance(first, Tensor) else type(first)}"
    return f"a {type(answer).__name__}"


def own_network(reference: str, task: str = "") -> Network:
    """Make the record of a user's own network; nothing is built yet.

    Its builder's arguments with plain defaults are its options, and ``activated``: whether it ends on the task's
    activation, which is then undone. A builder decorated with ``core.networks.network`` brings its own record.

    Raises:
        UsageError: If there is no such module or function, nobody says its task, or two say different ones.
    """
    named = find_function(reference)
    known = named if isinstance(named, Network) else None
    function = known.build if known else named
    if known is not None and task and known.task != task:
        raise UsageError(f"{reference} is for {known.task}, found --task {task}", hint="leave --task out")
    task = known.task if known else task
    if not task:
        raise UsageError(f"nobody says what pictures {reference} makes", hint="give --task saliency (or another)")
    tasks: Room[Any] = Room("compress.tasks", "task")
    kind = tasks.get(task)
    build = _builder(reference, function, kind.raw)
    if known is not None:
        return replace(known, name=reference, build=build)
    return Network(reference, task, build, size=kind.size, stride=1)


def find_function(reference: str) -> Any:
    """Import what "package.module:function" names, looking in the working directory first: callable, or a ``Network``.

    Raises:
        UsageError: If there is no such module, it fails, or has no such function; if it is of Python's own library,
            which has no networks, but functions that a manifest from elsewhere should not call.
    """
    package, _, name = reference.partition(":")
    if package.partition(".")[0] in sys.stdlib_module_names:
        raise UsageError(f"{package} is of Python's own library, no network is in it", hint=_WANTED)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(package)
    except CompressError:
        raise
    # the user's own code may raise anything, and leave
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{package}.".startswith(f"{error.name}."):
            raise UsageError(
                f"{reference} can't be built: ModuleNotFoundError, no '{error.name}' in the working directory "
                "or on Python's path",
                hint=f"run it in the folder that holds {package.partition('.')[0]}, or set PYTHONPATH=FOLDER",
            ) from error
        raise UsageError(f"{reference} can't be built: importing {package} fails with {_said(error)}",
                         hint=_WANTED) from error  # fmt: skip
    function = getattr(module, name, None)
    if not (callable(function) or isinstance(function, Network)):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        problem = f"has no function '{name}'" if function is None else f"'s {name} is a {type(function).__name__}"
        raise UsageError(f"{reference} can't be built: {package} {problem}{did_you_mean(name, known)}", hint=_WANTED)
    return function


def build_module(reference: str, function: Callable[..., Any], **options: Any) -> nn.Module:
    """Call a user's builder.

    Raises:
        UsageError: If it raises, or returns no ``nn.Module``.
    """
    try:
        module = function(**options)
    except CompressError:
        raise
    # as above
    except (Exception, SystemExit) as error:
        raise UsageError(f"{reference} can't be built: {_said(error)}", hint=_WANTED) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{reference} built a {type(module).__name__}, wanted an nn.Module", hint=_WANTED)
    return module


def _builder(reference: str, function: Callable[..., Any], raw: Raw) -> Callable[..., nn.Module]:
    def build(*, activated: bool = False, **options: Any) -> nn.Module:
        """Build it.

        Args:
            activated: Whether its outputs are the task's pictures, activation and all, instead of raw.
            options: Of the user's builder.
        """
        module = build_module(reference, function, **options)
        on_cpu = module.to(device=torch.device("cpu"), dtype=torch.float32)
        return Adopted(on_cpu, reference, raw if activated else None)

    parameters = _options(reference, function)
    own = inspect.Parameter("activated", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    build.__signature__ = inspect.Signature([*parameters, own])  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: parameter.annotation for parameter in (*parameters, own)}
    return build


def _options(reference: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Arguments of a builder that can stand in a manifest: those with a plain default."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return []
    if "activated" in signature.parameters:
        raise UsageError(f"{reference} has an argument 'activated', which is a flag of ours", hint="call it otherwise")
    try:
        hints = typing.get_type_hints(function)
    # annotations may name what only a type checker sees
    except Exception:
        hints = {}
    kinds = {
        name: hints.get(name) if given.default is None else type(given.default)
        for name, given in signature.parameters.items()
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=given.default, annotation=kinds[name])
        for name, given in signature.parameters.items()
        if kinds[name] in _PLAIN
    ]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
