"""`register`: this package's detectors as postprocessors of OpenOOD."""

from __future__ import annotations

from nci_plugin.adapters.openood.checkout import import_openood
from nci_plugin.config import config_directory


def register(override: bool = True) -> None:
    """Make every detector of this package a postprocessor of OpenOOD, by its name: ``postprocessor_name="neco"``.

    Names that OpenOOD has itself stay its own, except that ``nci`` becomes this package's (the same scores to rounding,
    for any network) and OpenOOD's stays reachable as ``nci_builtin``. With ``override=False`` ``nci`` is OpenOOD's,
    even if an earlier call had taken it: the last call counts.

    The recorder ``collapse`` of trainings is added too: ``recorder: {name: collapse}`` in a configuration of main.py.

    Raises PluginError if there is no checkout of OpenOOD, or if it cannot be imported.
    """
    import_openood()
    from nci_plugin.adapters.openood import registries  # imports openood, which is there now

    registries.register(config_directory() / "postprocessors", override)
