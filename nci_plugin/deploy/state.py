"""A fitted detector as named tensors and plain values, and back: the same for every registered detector.

The state of a detector is what its class promises (see `Detector`): the constructor's hyper-parameters, and the
attributes that end in an underscore, which `fit` learned. Its ``caches`` are read back empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nci_plugin.checks import PluginError, check_keys, shown
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import Detector
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

KIND = "kind"
"""The key that says what a mapping in the JSON stands for."""


@dataclass(frozen=True)
class State:
    """``values`` are JSON; where they stand for something with tensors, those are in ``tensors`` under its name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def state_of(detector: Detector) -> State:
    """The state of a fitted detector; raises PluginError on one that is not registered, or cannot be stored."""
    check_storable(detector)
    tensors: dict[str, Tensor] = {}
    learned = {
        name: _encoded(f"detector '{detector.name}': {name}", name, value, tensors)
        for name, value in sorted(vars(detector).items())
        if is_learned(name) and name not in detector.caches
    }
    where = f"detector '{detector.name}': hyper-parameter"
    given = {name: _plain(f"{where} {name}", each) for name, each in detector.get_hyperparameters().items()}
    values = {
        "detector": detector.name,
        "formula": detector.formula,
        "hyperparameters": given,
        "learned": learned,
    }
    return State(values, tensors)


def check_storable(detector: Detector) -> None:
    """Raise PluginError unless a file can name the detector's class: another library's it cannot."""
    if detector.name not in registry.names() or registry.detector_class(detector.name) is not type(detector):
        raise PluginError(
            f"detector '{detector.name}': only registered detectors can be saved, since a file names no code;"
            " register its class with register_detector, or choose one of this package"
        )


def detector_from(values: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Detector:
    """The detector of a state; raises PluginError, which begins with ``where``, on one of another formula or shape."""
    check_keys(where, values, ["detector", "formula", "hyperparameters", "learned"], ["detector", "formula", "learned"])
    cls = registry.detector_class(str(values["detector"]))
    if cls.formula != values["formula"]:
        raise PluginError(
            f"{where}: holds formula {shown(values['formula'])} of '{cls.name}', this version of nci_plugin has"
            f" {cls.formula}; fit it again"
        )
    given = values.get("hyperparameters", {})
    detector = registry.create(cls.name, **{name: _decoded(where, name, each, {}) for name, each in given.items()})
    left = dict(tensors)
    for name, value in values["learned"].items():
        if not is_learned(name) or isinstance(getattr(cls, name, None), property):
            raise PluginError(f"{where}: {shown(name)} is nothing that '{cls.name}' learns; fit it again")
        setattr(detector, name, _decoded(f"{where}: {name}", name, value, left))
    if left:
        raise PluginError(f"{where}: the tensor {shown(min(left))} is of nothing that it learned; fit it again")
    for name in detector.caches:
        setattr(detector, name, {})
    return detector


def is_learned(name: str) -> bool:
    return name.endswith("_") and not name.startswith("_")


def forget_scored(detector: Detector) -> None:
    """Empty what a detector keeps of the samples that it scored, which a search reads again and a service never."""
    for name in detector.caches:
        getattr(detector, name, {}).clear()


def _encoded(where: str, name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {KIND: "tensor"}
    if isinstance(value, LinearHead):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = value.weight.detach().clone(), value.bias.detach().clone()
        return {KIND: "head", "network": value.network, "architecture": value.architecture}
    if isinstance(value, ClassStatistics):
        tensors.update({f"{name}.{part}": tensor for part, tensor in value.state_dict().items()})
        return {KIND: "statistics"}
    if isinstance(value, FeatureSplit):
        for part in ("features", "logits", "labels"):
            tensors[f"{name}.{part}"] = getattr(value, part).detach().cpu().contiguous().clone()
        return {KIND: "rows"}
    return _plain(where, value)


def _plain(where: str, value: Any) -> Any:
    """Numbers, texts, None, and lists of them; what JSON has no number for is a mapping."""
    if isinstance(value, (bool, int, str, type(None))):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {KIND: "float", "value": str(value)}
    if isinstance(value, (list, tuple)):
        return {KIND: type(value).__name__, "items": [_plain(where, each) for each in value]}
    raise PluginError(
        f"{where}: a {type(value).__name__} cannot be stored; a detector learns tensors, numbers, texts, LinearHead,"
        " ClassStatistics or FeatureSplit"
    )


def _decoded(where: str, name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """What a value of the JSON stands for; its tensors are taken out of ``tensors``."""
    if not isinstance(value, Mapping):
        return value

    def part(suffix: str = "") -> Tensor:
        if name + suffix not in tensors:
            raise PluginError(f"{where}: the tensor '{name}{suffix}' is missing; the file is damaged, fit it again")
        return tensors.pop(name + suffix)

    kind = value.get(KIND)
    if kind == "tensor":
        return part()
    if kind == "head":
        return LinearHead(part(".weight"), part(".bias"), str(value["network"]), str(value["architecture"]))
    if kind == "statistics":
        empty = ClassStatistics(1, 1).state_dict()
        return ClassStatistics.from_state_dict({each: part(f".{each}") for each in empty})
    if kind == "rows":
        return FeatureSplit.of(part(".features"), part(".logits"), part(".labels"))
    if kind == "float":
        return float(value["value"])
    if kind in ("list", "tuple"):
        items = [_decoded(where, name, each, tensors) for each in value["items"]]
        return items if kind == "list" else tuple(items)
    raise PluginError(f"{where}: {shown(dict(value))} is of no kind that is known; update nci_plugin")
