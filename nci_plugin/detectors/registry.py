"""Every detector by name: this package's, those that other packages bring, and those registered in a session."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any, TypeVar

from nci_plugin.checks import PluginError, check_known, shown
from nci_plugin.detectors.base import Detector
from nci_plugin.features.bank import FitsOn

T = TypeVar("T", bound=type[Detector])

GROUP = "nci_plugin.detectors"
"""Entry points by which a package brings detectors: a class, or a module that registers some when it is imported."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
"""Names of detectors: they become names of files."""

RESERVED = ("all", "recommended")
"""What commands take in the place of a name."""

ENDINGS = (".py", ".yml", ".yaml")

_DETECTORS: dict[str, type[Detector]] = {}
_BROKEN: dict[str, str] = {}
_is_loaded = False


def register_detector(cls: T) -> T:
    """Class decorator: make a `Detector` known under its ``name``: to commands, to ``evaluate`` and to OpenOOD.

    The class may be defined again, as a cell of a notebook is; then the last one counts. Raises PluginError if it is
    no Detector, has no name of letters, digits, '.', '_' and '-', or the name of another class.
    """
    if not (isinstance(cls, type) and issubclass(cls, Detector)):
        raise PluginError(f"register_detector: takes a class that inherits from nci_plugin.Detector, got {shown(cls)}")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in RESERVED or name.endswith(ENDINGS):
        raise PluginError(
            f"register_detector: {cls.__qualname__}.name must be letters, digits, '.', '_' and '-', and not"
            f" {' or '.join(map(repr, RESERVED))}, got {shown(name)}"
        )
    _check_own(f"register_detector: the name '{name}' of {_place(cls)}", name, cls)
    _DETECTORS[name] = cls
    return cls


def check_name_of(detector: Detector, name: str, where: str) -> None:
    """Raise PluginError where ``name`` is that of another registered detector: its results would be taken for those."""
    names()
    _check_own(f"{where}: the name '{name}' of {_place(type(detector))}", name, type(detector))


def _check_own(what: str, name: str, cls: type) -> None:
    known = _DETECTORS.get(name, cls)
    if _place(known) != _place(cls):
        raise PluginError(f"{what} is taken by {_place(known)}; give it another")


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def as_detector(given: Any, spec: str = "") -> Detector:
    """A detector, or one of a class with its defaults; ``spec`` is what the user wrote for it.

    Raises PluginError unless it is a `Detector` that needs no argument, has a name and says what it fits on.
    """
    cls = given if isinstance(given, type) else type(given)
    where = f"detector '{spec or cls.__qualname__}'"
    if not issubclass(cls, Detector):
        raise PluginError(f"{where}: must be a class that inherits nci_plugin.Detector, got {shown(given)}; pass one")
    try:
        detector = cls() if given is cls else given
    except Exception as error:  # the class may be the user's code
        reason = " ".join(str(error).split())
        raise PluginError(f"{where}: cannot be made without arguments ({reason}); give defaults") from error
    if not isinstance(getattr(detector, "name", None), str):
        raise PluginError(f"{where}: has no name; give its class one, as in name = 'mine'")
    if not isinstance(detector.fits_on, FitsOn):
        raise PluginError(f"{where}: fits_on must be a value of nci_plugin.FitsOn, got {shown(detector.fits_on)}")
    return detector


def names() -> list[str]:
    """Registered names, in order of registration."""
    _load_entry_points()
    return list(_DETECTORS)


def broken() -> list[str]:
    """Entry points that cannot be loaded."""
    _load_entry_points()
    return list(_BROKEN)


def detector_class(name: str) -> type[Detector]:
    """The class registered as ``name``; raises PluginError with the closest known name."""
    known = names()
    if name in _BROKEN and name not in known:
        raise PluginError(f"detector '{name}': {_BROKEN[name]}")
    check_known("detector", name, known)
    return _DETECTORS[name]


def create(name: str, **hyperparameters: Any) -> Detector:
    """Construct a detector by name; raises PluginError on an unknown name or hyper-parameter."""
    return detector_class(name)().set_hyperparameters(**hyperparameters)


def _load_entry_points() -> None:
    """Import what other packages bring, once; what cannot be imported is named in a warning, and the others go on."""
    global _is_loaded
    if _is_loaded:
        return
    _is_loaded = True
    for point in _entry_points():
        try:
            found = point.load()
            if isinstance(found, type):
                register_detector(found)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the package is someone's code and may raise anything, SystemExit too
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            reason = f"its entry point '{point.value}' cannot be loaded ({reason}); correct it or uninstall its package"
            logging.getLogger(__name__).warning("detector '%s': %s", point.name, reason)
            _BROKEN[point.name] = reason


def _entry_points() -> Iterable[metadata.EntryPoint]:
    points: Any = metadata.entry_points()
    found = points.select(group=GROUP) if hasattr(points, "select") else points.get(GROUP, ())  # Python 3.9: a dict
    return {(point.name, point.value): point for point in found}.values()  # a path that is listed twice counts once
