"""Networks that data may name: torchvision's, timm's and this package's, from one table and by no other way.

A benchmark's YAML and the ``training.json`` beside a checkpoint come from anywhere. What they say is looked up here and
never imported; ``--net`` is the user's own word, and `factory` takes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Union

from nci_plugin.checks import PluginError, check_choice, check_number, did_you_mean, shown

if TYPE_CHECKING:  # a benchmark's file is read without torch
    from torch import nn

HEADS = ("learned", "fixed_etf", "bias_free")
"""The last layers of `etf.make_head`."""

ACTIVATION_NAMES = ("relu", "gelu", "silu", "tanh")
"""Those of `mlp.ACTIVATIONS`."""

MOST_PARAMETERS = 2**28
"""Of this package's networks, where data names them: 1 GiB of float32."""


@dataclass(frozen=True)
class Whole:
    """A whole number from 1 to ``most``."""

    most: int


@dataclass(frozen=True)
class Share:
    """A number from 0 to ``most``."""

    most: float = 1


Allowed = Union[Whole, Share, tuple[Any, ...]]
"""What an argument may be: a number in a range, or one of some values."""

FLAG = (True, False)
CLASSES = {"num_classes": Whole(10**5)}


@dataclass(frozen=True)
class Architecture:
    """One of this package's networks, ``module:class``, and what data may set of it."""

    factory: str
    arguments: Mapping[str, Allowed]


ARCHITECTURES = {
    "resnet18_32x32": Architecture(
        "nci_plugin.networks.resnet:ResNet18_32x32",
        {**CLASSES, "width": Whole(10**4), "blocks_per_stage": Whole(100), "head": HEADS},
    ),
    "mlp": Architecture(
        "nci_plugin.networks.mlp:MLP",
        {
            **CLASSES,
            "width": Whole(10**6),
            "depth": Whole(1000),
            "activation": ACTIVATION_NAMES,
            "head": HEADS,
            "image_size": Whole(4096),
        },
    ),
}

LIBRARY_ARGUMENTS: Mapping[str, Mapping[str, Allowed]] = {
    "torchvision": {
        **CLASSES,
        "image_size": Whole(4096),
        "dropout": Share(),
        "attention_dropout": Share(),
        "stochastic_depth_prob": Share(),
        "width_mult": Share(4),
        "aux_logits": FLAG,
        "init_weights": FLAG,
        "transform_input": FLAG,
    },
    "timm": {
        **CLASSES,
        "img_size": Whole(4096),
        "drop_rate": Share(),
        "drop_path_rate": Share(),
        "global_pool": ("avg", "max", "avgmax", "token"),
    },
}
"""Nothing that names a file, an address or weights is among them."""

FORMER = {each.factory: name for name, each in ARCHITECTURES.items()}
"""How this package wrote its own networks before; strings that are looked up, not paths that are followed."""

LIBRARY_MODEL = re.compile(r"(torchvision|torchvision\.models|timm):([a-z0-9_]+(?:\.[a-z0-9_]+)?)", re.ASCII)


def check_named(where: str, name: Any, arguments: Any) -> str:
    """Check a network that data names, and return its name as the table has it.

    Whether torchvision or timm has the model is found out by `build_named`. Raises PluginError on every other name, and
    on an argument that the table does not allow for it.
    """
    if not isinstance(arguments, Mapping):
        raise PluginError(f"{where}: arguments must be a mapping, got {shown(arguments)}")
    known = _known(name)
    if known is None:
        raise PluginError(
            f"{where}: factory: a file of data names a network only as torchvision:NAME, timm:NAME,"
            f" {' or '.join(ARCHITECTURES)}, got {shown(name)}; pass another with --net FILE.py:FACTORY"
        )
    library = known.partition(":")[0]
    allowed = ARCHITECTURES[known].arguments if known in ARCHITECTURES else LIBRARY_ARGUMENTS[library]
    for argument, value in arguments.items():
        if argument not in allowed:
            raise PluginError(
                f"{where}: arguments: a file of data may set {', '.join(allowed)} of {known}, not {shown(argument)};"
                " pass a network of your own with --net FILE.py:FACTORY"
            )
        _check_argument(f"{where}: arguments: {argument}", value, allowed[argument])
    return known


def build_named(where: str, name: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """A network that data names, with random weights. Raises PluginError as `check_named`, or where it cannot be made.

    ``num_classes`` is what the network gets unless the arguments say otherwise.
    """
    known = check_named(where, name, arguments)
    factory = find_named(known)
    _check_argument(f"{where}: num_classes", num_classes, CLASSES["num_classes"])
    if known in ARCHITECTURES:
        _check_size(where, factory, {"num_classes": num_classes, **arguments})
    return call_factory(known, factory, num_classes, arguments)


def find_named(name: str) -> Callable[..., nn.Module]:
    """The factory of a name in the table; raises PluginError if the library has no such model."""
    if name in ARCHITECTURES:
        module, _, cls = ARCHITECTURES[name].factory.partition(":")
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), cls)
        return factory
    library, _, model = name.partition(":")
    return LIBRARIES[library](model)


def label(spec: str) -> str:
    """What tables call the architecture of a network's name or of a factory."""
    return (ARCHITECTURES[spec].factory if spec in ARCHITECTURES else spec).rpartition(":")[2]


def call_factory(
    spec: str, factory: Callable[..., nn.Module], num_classes: int, arguments: Mapping[str, Any]
) -> nn.Module:
    """Call a factory with ``arguments``, and with ``num_classes`` if it takes that.

    Raises PluginError if it fails, in whatever way, or makes no network.
    """
    from torch import nn

    try:
        parameters = dict(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        parameters = {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = dict(arguments)
    if "num_classes" in parameters or takes_any:
        given.setdefault("num_classes", num_classes)
    try:
        network = factory(**given)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the factory may be the user's code, which raises anything, SystemExit too
        raise PluginError(
            f"network '{spec}': the factory failed with {type(error).__name__}: {error};"
            f" it was called with {shown(given) if given else 'no arguments'}; give all others a default"
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"network '{spec}': the factory must return a torch.nn.Module, got {type(network).__name__}")
    return network


def torchvision_names() -> list[str]:
    """torchvision's image classifiers."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _from_torchvision(name: str) -> Callable[..., nn.Module]:
    import torchvision

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


def _known(name: Any) -> str | None:
    """A name as the table has it, None for what is not in it."""
    if not isinstance(name, str):
        return None
    name = FORMER.get(name, name)
    if name in ARCHITECTURES:
        return name
    match = LIBRARY_MODEL.fullmatch(name)
    return f"{match[1].partition('.')[0]}:{match[2]}" if match else None


def _check_argument(what: str, value: Any, allowed: Allowed) -> None:
    if isinstance(allowed, tuple):
        check_choice(what, value, allowed)
        return
    whole = isinstance(allowed, Whole)
    check_number(what, value, least=1 if whole else 0, whole=whole, most=allowed.most)


def _check_size(where: str, factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> None:
    """Count the parameters before any memory is taken for them."""
    import torch

    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in factory(**{**arguments, "head": HEADS[0]}).parameters())
    if size > MOST_PARAMETERS:
        raise PluginError(
            f"{where}: arguments: {shown(dict(arguments))} make a network of {size:.1e} parameters, more than"
            f" {MOST_PARAMETERS:.1e}; correct them, or pass your own with --net FILE.py:FACTORY"
        )
