"""This package's detectors as postprocessors of OpenOOD, and OpenOOD without a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nci_plugin.adapters.openood.checkout import import_openood
from nci_plugin.adapters.openood.device import cuda_on
from nci_plugin.features.options import resolve_device


def register_with_openood(override: bool = True) -> None:
    """Make every registered detector a postprocessor of OpenOOD, by its name: ``postprocessor_name="neco"``.

    Names that OpenOOD has itself stay its own, except that ``nci`` becomes this package's (the same scores to rounding,
    for any network) and OpenOOD's stays reachable as ``nci_builtin``. With ``override=False`` ``nci`` is OpenOOD's,
    even if an earlier call had taken it: the last call counts. A detector that is registered (`register_detector`)
    later is there after another call.

    The recorder ``collapse`` of trainings is added too: ``recorder: {name: collapse}`` in a configuration of main.py.

    Raises PluginError if there is no checkout of OpenOOD, or if it cannot be imported.
    """
    import_openood()
    from nci_plugin.adapters.openood import registries  # imports openood, which is there now

    registries.register(override)


def register(override: bool = True) -> None:
    """`register_with_openood` by its earlier name; warns with DeprecationWarning."""
    warnings.warn("nci_plugin.register is now register_with_openood", DeprecationWarning, stacklevel=2)
    register_with_openood(override)


@contextmanager
def on_device(device: str | torch.device = "auto") -> Iterator[torch.device]:
    """While this is open OpenOOD, which calls ``.cuda()`` throughout, runs on ``device``: on a CPU, say.

    >>> with nci_plugin.on_device("cpu"):                             # doctest: +SKIP
    ...     Evaluator(net, id_name="cifar10", postprocessor_name="neco").eval_ood()

    ``.cuda()``, ``.to("cuda")``, ``device="cuda"`` and ``torch.load`` mean that device, in all of the process; the
    network must lie on it. Afterwards, also after an exception, torch is as before. Blocks may be nested; of those that
    are no GPU's, the innermost counts. ``auto``: cuda, else mps, else cpu. Gives the device.

    Raises PluginError on a device that torch does not know or that is not there.
    """
    found = resolve_device(str(device))
    with cuda_on(found):
        yield found
