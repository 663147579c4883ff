"""Networks named by the user: ``FILE.py:FACTORY``, ``package.module:factory``, or a name that data may give too.

Detectors' classes are named by the user in the same way.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nci_plugin.checks import PluginError, did_you_mean
from nci_plugin.files import digest, read_file
from nci_plugin.networks.named import ARCHITECTURES, LIBRARIES, call_factory, find_named

FORM = "FILE.py:FACTORY or package.module:factory, torchvision:NAME or timm:NAME"
LARGEST_FILE = 2**24
"""Bytes of a Python file, far beyond any that was written by hand."""


def find_factory(spec: str) -> Callable[..., nn.Module]:
    """Find the factory that ``spec`` names; one of a library makes networks with random weights.

    The file or module is code of the user's and is run: ``spec`` must be the user's own word, never data's.
    """
    place = spec.rpartition(":")[0]
    if spec in ARCHITECTURES or place in LIBRARIES:
        return find_named(spec)
    return import_named(spec, "network", "factory", FORM)


def import_named(spec: str, what: str, kind: str, form: str) -> Any:
    """What ``spec``, FILE.py:NAME or package.module:NAME, names: a callable of that ``kind``, for errors.

    The file or module is code of the user's and is run: ``spec`` must be the user's own word, never data's.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise PluginError(f"{what} '{spec}': expected {form}")
    where = f"{what} '{spec}'"
    if place.endswith(".py"):
        module = _import_file(Path(place), where, form, f"nci_plugin_{what}")
    else:
        module = _import_module(place, where, form)
    found = getattr(module, name, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PluginError(f"{where}: '{place}' has no {kind} '{name}'{did_you_mean(name, known)}")
    return found


def build_network(spec: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the user's factory with ``arguments``, and with ``num_classes`` if it takes that."""
    return call_factory(spec, find_factory(spec), num_classes, arguments)


def factory_source(spec: str) -> str:
    """What a factory is known by: its name and a digest of the file that holds it, or its library and name."""
    place, _, name = spec.rpartition(":")
    file = place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None)
    if place in LIBRARIES or file is None:
        return spec
    try:
        return f"{name} {digest(Path(file).read_bytes())}"
    except OSError as error:
        raise PluginError(f"network '{spec}': cannot read '{file}' ({error.strerror}); put it back") from None


def _import_file(path: Path, where: str, form: str, prefix: str) -> Any:
    try:
        content = read_file(path, f"{where}: file", LARGEST_FILE, f"expected {form}")
    except FileNotFoundError:
        raise PluginError(f"{where}: there is no file '{path}'; expected {form}") from None
    # Named by its content: two files of one name are two modules.
    module_name = f"{prefix}_{path.stem}_{digest(content)[:8]}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # so that inspect finds the source of its classes
    _make_importable(path.parent)  # as if the file were run: its neighbours can be imported, also by the factory
    try:
        module_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the file is the user's code and may raise anything, SystemExit too
        raise PluginError(f"{where}: '{path}' failed with {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str, where: str, form: str) -> Any:
    _make_importable(Path.cwd())  # as with python -m; the installed command does not do so by itself
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the module may be the user's code and may raise anything, SystemExit too
        raise PluginError(f"{where}: cannot import '{name}' ({error}); expected {form}") from error


def _make_importable(directory: Path) -> None:
    if str(directory.resolve()) not in sys.path:
        sys.path.insert(0, str(directory.resolve()))
