"""What is claimed of fn*: it concentrates, is invariant to training conditions, and is not additive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from invariance import DIFFERS, NO_DIFFERENCE, TOO_FEW, invariances
from significance import SIGNIFICANT, contrast, equivalence, variation_below, variation_interval

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_CV,
    Finding,
    interval_text,
    name_of,
    significant,
    untested,
)
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import by_group, cell, group_of
from nci_plugin.dynamics.intervals import LEAST
from nci_plugin.dynamics.trajectory import Trajectory

PROTOCOL = {"loss": "ce_then_mse", "head": "learned"}
"""Conditions that arXiv 2604.00230 claims something of; a run that does not name them has them."""


def in_protocol(run: Trajectory) -> bool:
    return all(run.conditions.get(name, value) == value for name, value in PROTOCOL.items())


def concentration(analysis: Analysis) -> Finding:
    claim = f"fn* concentrates within each (architecture, data set): CV < {PUBLISHED_CV:.0%}"
    rule = (
        f"of runs with cross-entropy, then the squared error, and a learned head: confirmed: every group's CV is below"
        f" {PUBLISHED_CV:.0%} (exact for normal values, p < {SIGNIFICANT:g}); not confirmed: some group's CV is not"
        f" below it; groups of at least {LEAST} runs with an onset, taken as independent"
    )
    groups = by_group([run for run in analysis.runs if in_protocol(run)])
    values = {group: known_fn(analysis, runs) for group, runs in groups.items()}
    values = {group: some for group, some in values.items() if len(some) >= LEAST}
    if not values:
        return untested(claim, rule, f"no group has {LEAST} runs with an onset")
    cvs = {group: float(np.std(some, ddof=1) / np.mean(some)) for group, some in values.items()}
    p = max(variation_below(cvs[group], len(some), PUBLISHED_CV) for group, some in values.items())
    above = any(cv >= PUBLISHED_CV for cv in cvs.values())
    return Finding(
        claim,
        "; ".join(
            f"{name_of(group)}: {np.mean(some):.3g} ± {np.std(some, ddof=1):.2g}, CV {cvs[group]:.1%}"
            for group, some in values.items()
        ),
        "; ".join(f"{len(some)} of {len(groups[group])}" for group, some in values.items()),
        "; ".join(interval_text(variation_interval(cvs[group], len(some)), ".1%") for group, some in values.items()),
        NOT_CONFIRMED if above else CONFIRMED if significant(p) else CANNOT_TELL,
        rule,
        p,
    )


def invariance(analysis: Analysis) -> Finding:
    claim = "fn* is largely invariant to training conditions"
    rule = (
        f"not confirmed: fn* differs between levels of some condition within a group (Kruskal-Wallis, {SIGNIFICANT:g}"
        f" by permutation and Bonferroni); confirmed: no two levels of a condition differ by {PUBLISHED_CV:.0%} or more"
        f" (two one-sided tests by Welch, p < {SIGNIFICANT:g}), each condition with two levels of two onsets"
    )
    found = [each for each in invariances(analysis.runs, analysis.onsets) if "all" not in each.group]
    if not found:
        return untested(claim, rule, "no condition varies alone")
    shifts = {f"{each.factor} ({name_of(each.group)})": each.shift for each in found if each.shift is not None}
    differ = [each for each in found if each.verdict == DIFFERS]
    tested = [list(each.values.values()) for each in found if len(each.values) > 1]
    p = max((equivalence(samples, PUBLISHED_CV) for samples in tested), default=None)
    complete = len(tested) == len(found)
    largest = max(shifts, key=lambda name: shifts[name], default="")
    counts = {name: sum(each.verdict == name for each in found) for name in (DIFFERS, NO_DIFFERENCE, TOO_FEW)}
    measured = ", ".join(f"{name}: {count}" for name, count in counts.items())
    return Finding(
        claim,
        f"{measured} of {len(found)} conditions"
        + (f"; differs: {', '.join(f'{e.factor} ({name_of(e.group)})' for e in differ)}" if differ else "")
        + (f"; largest shift {shifts[largest]:.0%}, {largest}" if largest else ""),
        str(sum(sum(each.n.values()) for each in found)),
        "-",
        NOT_CONFIRMED if differ else CONFIRMED if complete and significant(p) else CANNOT_TELL,
        rule,
        p,
    )


def non_additivity(analysis: Analysis) -> Finding:
    claim = "fn* is not the sum, nor the product, of an architecture's and a data set's share (2x2)"
    rule = (
        f"confirmed: the interactions of fn* and of log fn* both differ from 0 (Welch, p < {SIGNIFICANT:g}); not"
        " confirmed: neither does; runs of the most central conditions of each group, at least two a group"
    )
    values = {group: _central(analysis, group) for group in by_group(analysis.runs)}
    values = {group: numbers for group, numbers in values.items() if len(numbers) > 1}
    corner = _square(list(values))
    if corner is None:
        return untested(claim, rule, "no two architectures on the same two data sets with two onsets each")
    square = [values[group] for group in corner]
    sides = {
        name: contrast([transform(some).tolist() for some in square], (1, -1, -1, 1))
        for name, transform in (("sum", np.asarray), ("product", np.log))
    }
    p = max(each for each, _ in sides.values())
    apart = [significant(each) for each, _ in sides.values()]
    return Finding(
        claim,
        "; ".join(f"{name_of(group)}: {np.mean(values[group]):.3g}" for group in corner),
        " + ".join(str(len(some)) for some in square),
        "; ".join(f"{name} {interval_text(bounds, '.2f')}" for name, (_, bounds) in sides.items()),
        CONFIRMED if significant(p) else CANNOT_TELL if any(apart) else NOT_CONFIRMED,
        rule,
        p,
    )


def _central(analysis: Analysis, group: tuple[str, ...]) -> list[float]:
    """fn* of the runs of the group's most central cell: the one with most others that differ in one condition."""
    members = [run for run in analysis.runs if group_of(run) == group]
    cells = {cell(run): None for run in members}

    def neighbours(one: object) -> int:
        return sum(len(set(one) ^ set(other)) == 2 for other in cells)  # type: ignore[call-overload]

    runs_of = {each: [run for run in members if cell(run) == each] for each in cells}
    observed = {each: known_fn(analysis, some) for each, some in runs_of.items()}
    return max(observed.items(), key=lambda item: (neighbours(item[0]), len(item[1])))[1]


def fn_at_onset(analysis: Analysis, run: Trajectory) -> float | None:
    onset = analysis.onsets[run.run]
    return onset.fn if onset.observed else None


def known_fn(analysis: Analysis, runs: Sequence[Trajectory]) -> list[float]:
    return [fn for run in runs if (fn := fn_at_onset(analysis, run)) is not None]


def _square(groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """(a1, d1), (a1, d2), (a2, d1), (a2, d2), all among the groups."""
    architectures, data = (list(dict.fromkeys(group[place] for group in groups)) for place in (0, 1))
    for place, first in enumerate(architectures):
        for second in architectures[place + 1 :]:
            shared = [each for each in data if (first, each) in groups and (second, each) in groups]
            if len(shared) > 1:
                return [(architecture, each) for architecture in (first, second) for each in shared[:2]]
    return None
