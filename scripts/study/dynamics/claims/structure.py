"""The claimed regularities: depth, activation, weight decay and width against the speed of collapse and fn*."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regularities
from invariance import SIGNIFICANT
from regularities import Regularity
from scipy import stats

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_WIDTH_SHIFT,
    SUPPORT,
    Finding,
    by_bounds,
    epoch_text,
    interval_text,
    untested,
    value_text,
)
from claims.reference import fn_at_onset
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.intervals import RESAMPLES, percentiles
from nci_plugin.dynamics.trajectory import Condition


def depth(analysis: Analysis) -> Finding:
    return _regularity(
        analysis, "depth", "depth has a non-monotonic effect on the speed of collapse", regularities.non_monotonic
    )


def weight_decay(analysis: Analysis) -> Finding:
    return _regularity(
        analysis,
        "weight_decay",
        "weight decay has three regimes: too little slows, a range between is fastest, too much prevents collapse",
        regularities.three_regimes,
    )


def width(analysis: Analysis) -> Finding:
    return _regularity(analysis, "width", "width makes collapse monotonically faster", regularities.never_later)


def _regularity(analysis: Analysis, factor: str, claim: str, pattern: regularities.Pattern) -> Finding:
    rule = (
        f"of the median onsets by level, over resamples of each level's runs: confirmed where the pattern holds in at"
        f" least {SUPPORT:.0%} of them, not confirmed where in at most {1 - SUPPORT:.0%}; other conditions held"
    )
    found = regularities.regularity(analysis.runs, analysis.onsets, factor, pattern)
    if found is None:
        return untested(claim, rule, f"no three levels of {factor} with all else the same and an onset")
    support = found.support
    return Finding(
        claim,
        f"median onset {_levels(found)}; the pattern {'holds' if found.holds else 'does not hold'}",
        f"{found.n} ({', '.join(str(len(values)) for values in found.onsets.values())})",
        f"in {support:.0%} of resamples",
        CONFIRMED if support >= SUPPORT else NOT_CONFIRMED if support <= 1 - SUPPORT else CANNOT_TELL,
        rule,
    )


def activation(analysis: Analysis) -> Finding:
    claim = "the activation determines both the speed of collapse and fn*"
    rule = (
        f"confirmed: Kruskal-Wallis over activations, all else held, gives p < {SIGNIFICANT:g} / 2 for the onset (none:"
        " last) and for fn*; not confirmed: neither does"
    )
    part = regularities.best_slice(analysis.runs, analysis.onsets, "activation", 2)
    if part is None:
        return untested(claim, rule, "no two activations with all else the same and an onset")
    onsets = {level: [analysis.onsets[run.run] for run in runs] for level, runs in part.by_level.items()}
    speeds = {level: [regularities.speed(each) for each in some] for level, some in onsets.items()}
    norms = {
        level: [each.fn for each in some if each.observed and each.fn is not None] for level, some in onsets.items()
    }
    # Ranks are all that the test reads: any number beyond the last epoch does for a run without an onset.
    latest = 1 + max(each.epoch for some in onsets.values() for each in some)
    p = [
        _kruskal([[min(value, latest) for value in some] for some in speeds.values()]),
        _kruskal([some for some in norms.values() if some]),
    ]
    differ = [value is not None and value < SIGNIFICANT / 2 for value in p]
    medians = ", ".join(f"{level}: {epoch_text(regularities.upper_median(some))}" for level, some in speeds.items())
    means = ", ".join(f"{level}: {np.mean(some):.3g}" for level, some in norms.items() if some)
    return Finding(
        claim,
        f"median onset {medians}; mean fn* {means}",
        ", ".join(str(len(some)) for some in speeds.values()),
        f"p = {value_text(p[0], '.2g')} (onset), {value_text(p[1], '.2g')} (fn*)",
        CONFIRMED if all(differ) else CANNOT_TELL if any(differ) else NOT_CONFIRMED,
        rule,
    )


def width_shift(analysis: Analysis) -> Finding:
    claim = f"width shifts fn* by at most {PUBLISHED_WIDTH_SHIFT:.0%}"
    rule = (
        f"largest less smallest mean fn* of a width, as a share of the mean: confirmed where its bootstrap interval is"
        f" below {PUBLISHED_WIDTH_SHIFT:.0%}, not confirmed where above; widths with two onsets"
    )
    part = regularities.best_slice(analysis.runs, analysis.onsets, "width", 2)
    values: dict[Condition, list[float]] = {}
    for level, runs in part.by_level.items() if part else ():
        values[level] = [fn for run in runs if (fn := fn_at_onset(analysis, run)) is not None]
    known = {level: some for level, some in values.items() if len(some) > 1}
    if len(known) < 2:
        return untested(claim, rule, "no two widths with two onsets each and all else the same")

    def shift(some: Sequence[Sequence[float]]) -> float:
        means = [float(np.mean(each)) for each in some]
        return (max(means) - min(means)) / float(np.mean([value for each in some for value in each]))

    generator = np.random.default_rng(0)
    drawn = [shift([generator.choice(some, len(some)).tolist() for some in known.values()]) for _ in range(RESAMPLES)]
    bounds = percentiles(drawn, len(drawn))
    return Finding(
        claim,
        f"{shift(list(known.values())):.0%}; mean fn* "
        + ", ".join(f"{level}: {np.mean(some):.3g}" for level, some in known.items()),
        ", ".join(str(len(some)) for some in known.values()),
        interval_text(bounds, ".0%"),
        by_bounds(bounds, PUBLISHED_WIDTH_SHIFT, below=True),
        rule,
    )


def _kruskal(samples: Sequence[Sequence[float]]) -> float | None:
    if len(samples) < 2 or len({value for some in samples for value in some}) < 2:
        return None
    return float(stats.kruskal(*samples).pvalue)


def _levels(found: Regularity) -> str:
    return ", ".join(f"{level}: {epoch_text(value)}" for level, value in zip(found.onsets, found.medians))
