"""The rows of the detectors that a user asks for."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin.checks import check_known
from nci_plugin.evaluation.results import Result


def selected(results: Sequence[Result], detectors: Sequence[str] | None) -> list[Result]:
    """The rows of some detectors, of all where None are given.

    Raises PluginError on a detector that has no rows.
    """
    if detectors is None:
        return list(results)
    known = dict.fromkeys(result.detector for result in results)
    for name in detectors:
        check_known("detector of these results", name, known)
    return [result for result in results if result.detector in detectors]
