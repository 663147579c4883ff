"""NCI and neural-collapse detectors of out-of-distribution samples, as a plugin for OpenOOD v1.5.

>>> from nci_plugin import evaluate                                        # doctest: +SKIP
>>> evaluation = evaluate(network, "cifar10", ["nci", "msp"], data_root="data")   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "evaluate": "nci_plugin.api",
    "register": "nci_plugin.registration",
    "Benchmark": "nci_plugin.benchmarks.benchmark",
    "Features": "nci_plugin.benchmarks.benchmark",
    "ImageList": "nci_plugin.benchmarks.image_list",
    "Preprocessing": "nci_plugin.benchmarks.image_list",
    "ClassStatistics": "nci_plugin.statistics",
    "LinearHead": "nci_plugin.head",
    "Detector": "nci_plugin.detectors.base",
    "CollapseMonitor": "nci_plugin.dynamics.monitor",
    "PluginError": "nci_plugin.checks",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``nci-ood --help`` needs no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
