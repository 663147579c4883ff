"""Make the `identity` of results: digests of a network, of its code and of the images; and those of detectors."""

from __future__ import annotations

import inspect
import json
import sys
import sysconfig
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from nci_plugin.benchmarks.benchmark import Features
from nci_plugin.benchmarks.image_digests import content_digests
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.benchmarks.shards import ShardedImages
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.identity import UNKNOWN
from nci_plugin.features.fingerprint import own_classes, structure, tensor_bytes, weights_digest
from nci_plugin.files import digest
from nci_plugin.networks.head import LinearHead

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
INSTALLED = {"site-packages", "dist-packages"}


def network_identity(
    network: nn.Module | LinearHead,
    amp: str = "none",
    factory: bytes | str = "",
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The fields of one network: ``amp`` is the precision of torch.autocast (``none``: float32).

    ``factory`` is what made it: the bytes of its file and its name, where they are known.
    """
    return {
        "weights": weights_digest(network),
        "code": code_digest(network, factory, arguments or {}),
        "precision": "float32" if amp == "none" else amp,
    }


def data_identity(splits: Mapping[str, Any], cache: Path | None, progress: bool = False) -> dict[str, dict[str, str]]:
    """The fields of the splits that `open_splits` gave.

    Image lists are known by the bytes of their files (see `content_digests`), features by their bytes. A Dataset or a
    list of images held in Python cannot be known again: it counts as new each time.
    """
    lists = {name: split for name, split in splits.items() if isinstance(split, ImageFiles)}
    images = content_digests(lists, cache, progress)
    preprocessing = {name: digest(repr(split.source.preprocessing)) for name, split in lists.items()}
    for name, split in splits.items():
        if isinstance(split, Features):
            parts: list[bytes | str] = []
            for tensor in (split.features, split.labels, split.logits):
                parts += [] if tensor is None else [f"{tensor.dtype} {tuple(tensor.shape)}", tensor_bytes(tensor)]
            images[name] = digest(*parts)
        elif isinstance(split, ShardedImages):
            images[name] = split.content(progress)
            preprocessing[name] = digest(repr(split.preprocessing))
        elif name not in images:
            images[name] = f"{UNKNOWN}{uuid.uuid4().hex}"
    return {"images": {name: images[name] for name in splits}, "preprocessing": preprocessing}


def data_digest(splits: Mapping[str, Any], cache: Path | None) -> str:
    """`data_identity` in one digest."""
    return digest(json.dumps(data_identity(splits, cache, progress=True), sort_keys=True))


def code_digest(network: nn.Module | LinearHead, factory: bytes | str, arguments: Mapping[str, Any]) -> str:
    """Hash of what is known of a network's code.

    That is its ``repr``, the names of its classes and their bases with the files that hold them (torch's, torchvision's
    and Python's own left out), and what made it. What these files import is not looked at.
    """
    if isinstance(network, LinearHead):
        return digest("linear head")
    names, sources = [], set()
    for cls in own_classes(network):
        source = source_of(cls)
        if source is not None:
            names.append(cls.__qualname__)
            sources.add(digest(source))
    described = json.dumps(dict(arguments), default=repr)
    return digest(structure(network), *sorted(names), *sorted(sources), factory, described)


def method_digest(setup: Contestant) -> str:
    """Hash of what a contestant computes: its name, class, values and formula, and of one from elsewhere the code.

    A detector from elsewhere may use any module of the user's, and OpenOOD's methods any of its checkout, so all that
    are loaded count for these.
    """
    detector, sweep = setup.detector, {name: list(each) for name, each in setup.sweep.items()}
    cls = type(detector or setup)
    values = [setup.name, cls.__qualname__, dict(setup.configured), sweep, getattr(detector, "formula", None)]
    sources: list[bytes | str] = []
    if detector is None or not cls.__module__.startswith("nci_plugin."):
        sources = [*(source_of(each) or each.__qualname__ for each in cls.__mro__), *loaded_sources()]
    return digest(json.dumps(values, sort_keys=True, default=repr), *sources)


def loaded_sources() -> list[bytes]:
    """The files of all modules that are loaded, but for those of Python, of installed packages and of this one."""
    left_out = {Path(__file__).parents[1], LIBRARY}
    names = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    paths = [path for path in map(Path, sorted(names)) if path.suffix == ".py" and left_out.isdisjoint(path.parents)]
    return [path.read_bytes() for path in paths if INSTALLED.isdisjoint(path.parts) and path.is_file()]


def source_of(cls: type) -> bytes | None:
    """The file that holds a class, or its methods where none does, as in a notebook; None of Python's own classes."""
    functions = [value for value in vars(cls).values() if inspect.isfunction(value)]
    paths = [function.__code__.co_filename for function in functions]
    with suppress(OSError, TypeError):
        paths.insert(0, inspect.getsourcefile(cls) or "")
    for path in map(Path, paths):
        if LIBRARY in path.parents and INSTALLED.isdisjoint(path.parts):
            return None
        with suppress(OSError):
            return path.read_bytes()
    texts = []
    for function in functions:
        with suppress(OSError):
            texts.append(inspect.getsource(function))
    return "".join(texts).encode()
