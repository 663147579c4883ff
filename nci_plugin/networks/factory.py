"""Networks named by the user: ``FILE.py:FACTORY``, ``package.module:factory``, ``torchvision:NAME``, ``timm:NAME``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from nci_plugin.checks import PluginError, did_you_mean
from nci_plugin.files import digest

FORM = "FILE.py:FACTORY or package.module:factory, torchvision:NAME or timm:NAME"


def find_factory(spec: str) -> Callable[..., nn.Module]:
    """Find the factory that ``spec`` names; one of a library makes networks with random weights.

    The file or module is code of the user's and is run.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise PluginError(f"network '{spec}': expected {FORM}")
    if place in LIBRARIES:
        return LIBRARIES[place](name)
    module = _import_file(Path(place), spec) if place.endswith(".py") else _import_module(place, spec)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PluginError(f"network '{spec}': '{place}' has no factory '{name}'{did_you_mean(name, known)}")
    return factory


def build_network(spec: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the factory with ``arguments``, and with ``num_classes`` if it takes that."""
    factory = find_factory(spec)
    try:
        parameters = dict(inspect.signature(factory).parameters)
    except ValueError:
        parameters = {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = dict(arguments)
    if "num_classes" in parameters or takes_any:
        given.setdefault("num_classes", num_classes)
    try:
        network = factory(**given)
    except (Exception, SystemExit) as error:  # the factory is the user's code and may raise anything
        raise PluginError(
            f"network '{spec}': the factory failed with {type(error).__name__}: {error};"
            f" it was called with {given or 'no arguments'};"
            " others go under network: arguments of a benchmark's YAML"
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"network '{spec}': the factory must return a torch.nn.Module, got {type(network).__name__}")
    return network


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


def _import_file(path: Path, spec: str) -> Any:
    if not path.is_file():
        raise PluginError(f"network '{spec}': there is no file '{path}'; expected {FORM}")
    # Named by its content: two files of one name are two modules.
    module_name = f"nci_plugin_network_{path.stem}_{digest(path.read_bytes())[:8]}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # so that inspect finds the source of its classes
    _make_importable(path.parent)  # as if the file were run: its neighbours can be imported, also by the factory
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's code and may raise anything
        raise PluginError(f"network '{spec}': '{path}' failed with {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str, spec: str) -> Any:
    _make_importable(Path.cwd())  # as with python -m; the installed command does not do so by itself
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the module may be the user's code and may raise anything
        raise PluginError(f"network '{spec}': cannot import '{name}' ({error}); expected {FORM}") from error


def torchvision_names() -> list[str]:
    """torchvision's image classifiers."""
    return torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(name: str) -> Callable[..., nn.Module]:
    known = torchvision_names()
    if name not in known:
        raise PluginError(f"network 'torchvision:{name}': torchvision has no such model{did_you_mean(name, known)}")
    return partial(torchvision.models.get_model, name, weights=None)


def _from_timm(name: str) -> Callable[..., nn.Module]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise PluginError(f"network 'timm:{name}': timm cannot be imported ({error}); pip install timm") from error
    if not timm.is_model(name):
        raise PluginError(f"network 'timm:{name}': timm has no such model{did_you_mean(name, timm.list_models())}")
    return partial(timm.create_model, name, pretrained=False)


LIBRARIES = {"torchvision": _from_torchvision, "timm": _from_timm}


def _make_importable(directory: Path) -> None:
    if str(directory.resolve()) not in sys.path:
        sys.path.insert(0, str(directory.resolve()))
