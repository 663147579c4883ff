"""How detectors are called beside the names that commands take."""

from __future__ import annotations

from collections.abc import Iterable

from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.openood import methods
from nci_plugin.detectors import registry


def display_name(name: str) -> str:
    """The detector's ``display``; the name itself of one that this session does not know, of a file say."""
    if name in registry.names():
        return registry.detector_class(name).display
    if name in pytorch_ood.names():
        return pytorch_ood.display(name)
    if name.removeprefix(methods.PREFIX) in methods.METHODS and name.startswith(methods.PREFIX):
        return methods.display(name)
    return name


def display_names(names: Iterable[str]) -> dict[str, str]:
    return {name: display_name(name) for name in names}
