"""What a network is called: which of the modules that it is wrapped in, or made of, says so."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from nci_plugin.networks.calling import unwrapped

FAMILIES = re.compile("(?i:resnet|deit|swin|visiontransformer)|V[iI][tT]|^vit")
"""Parts of names that say what a network is, for the rules that go by it (NECO's)."""

TRUNK_SHARE = 0.9
"""A child that holds more of a network's parameters than this is what the network is made of."""


def architecture_of(network: nn.Module, head: str) -> tuple[str, str]:
    """Class name of the network that the layer ``head`` ends, and timm's name of its architecture ("" if it has none).

    The network may be a part of what is given, as in ``Sequential(Normalize(), ResNet())`` or as ``.model`` of a
    training class: of the modules that hold the head, from the innermost one, the first whose class or timm's
    architecture names a family counts; then of the modules that hold over 90 % of the parameters. Where none does, it
    is the outermost one.
    """
    outermost = unwrapped(network)
    for module in [*reversed(_holders(network, head)), *_trunk(outermost)]:
        name, architecture = type(module).__name__, _timm_architecture(module)
        if FAMILIES.search(name) or FAMILIES.search(architecture):
            return name, architecture
    return type(outermost).__name__, _timm_architecture(outermost)


def _holders(network: nn.Module, head: str) -> list[nn.Module]:
    """The modules that hold a layer, from the network itself to the innermost one."""
    modules, parts = dict(network.named_modules(remove_duplicate=False)), head.split(".")
    return [modules[".".join(parts[:depth])] for depth in range(len(parts))]


def _trunk(network: nn.Module) -> list[nn.Module]:
    """The child that holds most of the parameters, its child that does, and so on."""
    found, least = [network], TRUNK_SHARE * _size(network)
    while large := [each for each in found[-1].children() if _size(each) > least]:
        found.append(large[0])
    return found[1:]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _timm_architecture(module: nn.Module) -> str:
    for field in ("pretrained_cfg", "default_cfg"):
        configuration = getattr(module, field, None)
        architecture = configuration.get("architecture") if isinstance(configuration, Mapping) else None
        if isinstance(architecture, str):
            return architecture
    return ""
