"""What is claimed of fn*: it concentrates, is invariant to training conditions, and is not additive."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from invariance import DIFFERS, NO_DIFFERENCE, SIGNIFICANT, TOO_FEW, invariances

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_CV,
    Finding,
    interval_text,
    name_of,
    untested,
)
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import cell, group_of
from nci_plugin.dynamics.intervals import LEAST, LEVEL, RESAMPLES, percentiles
from nci_plugin.dynamics.trajectory import Trajectory


def concentration(analysis: Analysis) -> Finding:
    claim = f"fn* concentrates within each (architecture, data set): CV < {PUBLISHED_CV:.0%}"
    rule = (
        f"confirmed: every group's interval of the CV lies below {PUBLISHED_CV:.0%}; not confirmed: some group's CV is"
        f" not below it; groups of at least {LEAST} runs with an onset"
    )
    found = [each for each in analysis.references if each.cv is not None and each.n >= LEAST]
    if not found:
        return untested(claim, rule, f"no group has {LEAST} runs with an onset")
    below = [each.cv_interval is not None and each.cv_interval[1] < PUBLISHED_CV for each in found]
    above = [each.cv is not None and each.cv >= PUBLISHED_CV for each in found]
    return Finding(
        claim,
        "; ".join(f"{name_of(each.group)}: {each.mean:.3g} ± {each.sd:.2g}, CV {each.cv:.1%}" for each in found),
        "; ".join(f"{each.n} ({each.censored} censored, {each.degenerate} degenerate)" for each in found),
        "; ".join(interval_text(each.cv_interval, ".1%") for each in found),
        NOT_CONFIRMED if any(above) else CONFIRMED if all(below) else CANNOT_TELL,
        rule,
    )


def invariance(analysis: Analysis) -> Finding:
    claim = "fn* is largely invariant to training conditions"
    rule = (
        f"not confirmed: fn* differs between levels of some condition within a group (Kruskal-Wallis, {SIGNIFICANT:g}"
        f" by Bonferroni); confirmed: tested without such a difference, and no shift above {PUBLISHED_CV:.0%}"
    )
    found = [each for each in invariances(analysis.runs, analysis.onsets) if "all" not in each.group]
    tested = [each for each in found if each.verdict != TOO_FEW]
    if not found:
        return untested(claim, rule, "no condition varies alone")
    shifts = {f"{each.factor} ({name_of(each.group)})": each.shift for each in found if each.shift is not None}
    small = all(shift <= PUBLISHED_CV for shift in shifts.values())
    differ = [each for each in tested if each.verdict == DIFFERS]
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
        NOT_CONFIRMED if differ else CONFIRMED if tested and small else CANNOT_TELL,
        rule,
    )


def non_additivity(analysis: Analysis) -> Finding:
    claim = "fn* is not the sum, nor the product, of an architecture's and a data set's share (2x2)"
    rule = (
        f"confirmed: {LEVEL:.0%} bootstrap intervals of the interaction of fn* and of log fn* both exclude 0; not"
        " confirmed: both include it; runs of the most central conditions of each group, at least two a group"
    )
    values = {each.group: _central(analysis, each.group) for each in analysis.references}
    values = {group: numbers for group, numbers in values.items() if len(numbers) > 1}
    corner = _square(list(values))
    if corner is None:
        return untested(claim, rule, "no two architectures on the same two data sets with two onsets each")
    square = [values[group] for group in corner]
    generator = np.random.default_rng(0)
    sides = {}
    for name, transform in (("sum", np.asarray), ("product", np.log)):
        drawn = []
        for _ in range(RESAMPLES):
            means = [transform(generator.choice(some, len(some))).mean() for some in square]
            drawn.append(float(means[0] - means[1] - means[2] + means[3]))
        sides[name] = percentiles(drawn, len(drawn))
    apart = [bounds is not None and not bounds[0] <= 0 <= bounds[1] for bounds in sides.values()]
    return Finding(
        claim,
        "; ".join(f"{name_of(group)}: {np.mean(values[group]):.3g}" for group in corner),
        " + ".join(str(len(some)) for some in square),
        "; ".join(f"{name} {interval_text(bounds, '.2f')}" for name, bounds in sides.items()),
        CONFIRMED if all(apart) else CANNOT_TELL if any(apart) else NOT_CONFIRMED,
        rule,
    )


def _central(analysis: Analysis, group: tuple[str, ...]) -> list[float]:
    """fn* of the runs of the group's most central cell: the one with most others that differ in one condition."""
    members = [run for run in analysis.runs if group_of(run) == group]
    cells = {cell(run): None for run in members}

    def neighbours(one: object) -> int:
        return sum(len(set(one) ^ set(other)) == 2 for other in cells)  # type: ignore[call-overload]

    runs_of = {each: [run for run in members if cell(run) == each] for each in cells}
    observed = {
        each: [f for run in some if (f := fn_at_onset(analysis, run)) is not None] for each, some in runs_of.items()
    }
    return max(observed.items(), key=lambda item: (neighbours(item[0]), len(item[1])))[1]


def fn_at_onset(analysis: Analysis, run: Trajectory) -> float | None:
    onset = analysis.onsets[run.run]
    return onset.fn if onset.observed else None


def _square(groups: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """(a1, d1), (a1, d2), (a2, d1), (a2, d2), all among the groups."""
    architectures, data = (list(dict.fromkeys(group[place] for group in groups)) for place in (0, 1))
    for place, first in enumerate(architectures):
        for second in architectures[place + 1 :]:
            shared = [each for each in data if (first, each) in groups and (second, each) in groups]
            if len(shared) > 1:
                return [(architecture, each) for architecture in (first, second) for each in shared[:2]]
    return None
