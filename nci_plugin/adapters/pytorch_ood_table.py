"""What pytorch-ood says of its detectors, stored: importing the library to read it costs more than the command.

``data/pytorch_ood.json`` has the paper and the ``hyperparameter_space`` of each of its classes that can be used here,
as version 0.4.0 states them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from nci_plugin.adapters import PYTORCH_OOD


@cache
def stored() -> dict[str, dict[str, Any]]:
    """By class: ``authors``, ``paper`` (title, venue, year, url; None where it names none) and ``grid``."""
    text = resources.files("nci_plugin.adapters").joinpath("data/pytorch_ood.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def classes() -> dict[str, str]:
    """The class of each name, ``pytorch_ood:`` and the class in lower case."""
    return {f"{PYTORCH_OOD}{each.lower()}": each for each in stored()}


def display(name: str) -> str:
    """A detector's name as pytorch-ood writes it."""
    return f"{classes()[name]} (pytorch-ood)"
