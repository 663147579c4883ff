"""Every detector of this package, by name."""

from __future__ import annotations

from typing import Any, TypeVar

from nci_plugin.checks import check_known
from nci_plugin.detectors.base import Detector

T = TypeVar("T", bound=type[Detector])

_DETECTORS: dict[str, type[Detector]] = {}


def register(cls: T) -> T:
    """Class decorator: make a detector known under its ``name``, and so tested by the contract tests."""
    if cls.name in _DETECTORS:
        raise ValueError(f"detector name '{cls.name}' is taken by {_DETECTORS[cls.name].__qualname__}")
    _DETECTORS[cls.name] = cls
    return cls


def names() -> list[str]:
    """Registered names, in order of registration."""
    return list(_DETECTORS)


def detector_class(name: str) -> type[Detector]:
    """The class registered as ``name``; raises PluginError with the closest known name."""
    check_known("detector", name, _DETECTORS)
    return _DETECTORS[name]


def create(name: str, **hyperparameters: Any) -> Detector:
    """Construct a detector by name; raises PluginError on an unknown name or hyper-parameter."""
    return detector_class(name)().set_hyperparameters(**hyperparameters)
