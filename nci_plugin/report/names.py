"""How detectors are called beside the names that commands take, without importing torch where no name needs it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path

from nci_plugin.adapters import pytorch_ood_table
from nci_plugin.adapters.openood import methods

GROUP = "nci_plugin.detectors"
"""The package of our detectors, and the entry points of other packages' (see `registry`)."""


def display_name(name: str) -> str:
    """The detector's ``display``; the name itself of one that this session does not know, of a file say."""
    if name in own_names():
        return own_names()[name]
    if name in pytorch_ood_table.classes():
        return pytorch_ood_table.display(name)
    if name.removeprefix(methods.PREFIX) in methods.METHODS and name.startswith(methods.PREFIX):
        return methods.display(name)
    return _registered(name) or name


def display_names(names: Iterable[str]) -> dict[str, str]:
    return {name: display_name(name) for name in names}


@cache
def own_names() -> dict[str, str]:
    """The ``display`` of this package's detectors by name, read off the files of their classes."""
    found: dict[str, str] = {}
    for path in sorted((Path(__file__).parents[1] / "detectors").glob("*.py")):
        for cls in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(cls, ast.ClassDef):
                values = dict(filter(None, map(_assigned, cls.body)))
                if "name" in values:
                    found[values["name"]] = values.get("display", values["name"])
    return found


def _assigned(statement: ast.stmt) -> tuple[str, str] | None:
    """The name and the text of a statement such as ``display = "MSP"``."""
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
        return None
    target, value = statement.targets[0], statement.value.value
    return (target.id, value) if isinstance(target, ast.Name) and isinstance(value, str) else None


def _registered(name: str) -> str | None:
    """The ``display`` of a detector that was registered in this session, or that another package may bring."""
    if f"{GROUP}.registry" not in sys.modules and not any(
        point.group == GROUP for found in metadata.distributions() for point in found.entry_points
    ):
        return None
    from nci_plugin.detectors import registry

    return registry.detector_class(name).display if name in registry.names() else None
