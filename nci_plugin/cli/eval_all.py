"""``nci-ood eval all``: every benchmark of OpenOOD's whose data and checkpoints are there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nci_plugin.inputs import Inputs, Roots

ALL = "all"
OTHERWISE = "digits"
"""What is evaluated without a BENCHMARK where none of OpenOOD's is there."""


def evaluate_all(
    options: argparse.Namespace, find: Callable[[str, Roots], Inputs], evaluate: Callable[[Inputs], int]
) -> int:
    """Evaluate what ``find`` finds, one benchmark after another; returns the worst exit code.

    Raises PluginError if BENCHMARK is ``all`` and nothing is there, or on options that belong to one benchmark.
    """
    from nci_plugin.checks import PluginError
    from nci_plugin.inputs import MissingInputs, find_roots, official_benchmarks

    of_one = [flag for flag, given in _options_of_one(options).items() if given]
    refusal = f"{' '.join(of_one)}: cannot hold for all benchmarks; name one in the place of '{ALL}'"
    if of_one and options.benchmark == ALL:
        raise PluginError(refusal)
    found: dict[str, Inputs] = {}
    left_out: dict[str, str] = {}
    for name in official_benchmarks():
        try:
            found[name] = find(name, find_roots(name, options.data_root))
        except PluginError as error:
            left_out[name] = error.summary if isinstance(error, MissingInputs) else str(error)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        if options.benchmark == ALL:
            raise PluginError(
                f"no benchmark of OpenOOD's can be evaluated ({reasons}); evaluate one by its name to see what is"
                " missing and how to download it"
            )
        print(f"benchmark: {OTHERWISE}, since none of OpenOOD's can be evaluated ({reasons})")
        return evaluate(find(OTHERWISE, find_roots(OTHERWISE, options.data_root)))
    if of_one:
        raise PluginError(f"{refusal} (found: {', '.join(found)})")
    openood = next(iter(found.values())).roots.openood
    if openood:
        print(f"OpenOOD: {openood}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"benchmarks: {', '.join(found)}")
    codes = []
    for name, inputs in found.items():
        print(f"\n== {name}")
        try:
            codes.append(evaluate(inputs))
        except PluginError as error:
            print(f"nci-ood: error: {name}: {error}", file=sys.stderr)
            codes.append(2)
    return max(codes)


def _options_of_one(options: argparse.Namespace) -> dict[str, bool]:
    """The options that belong to one benchmark, and whether they are given."""
    from nci_plugin.inputs import NO_CSID

    return {
        "--ckpt-path": options.ckpt_path is not None,
        "--net": options.net is not None,
        "--head": options.head is not None,
        "--output": options.output is not None,
        "--csid": options.csid not in (None, [NO_CSID]),
    }
