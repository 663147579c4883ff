"""The claimed regularities: depth, activation, weight decay and width against the speed of collapse and fn*."""

from __future__ import annotations

import numpy as np
import regularities
from regularities import LEAST_LEVELS, Regularity
from significance import SIGNIFICANT, censored_trend, equivalence, kruskal, smallest_p

from claims.finding import (
    CANNOT_TELL,
    CONFIRMED,
    NOT_CONFIRMED,
    PUBLISHED_WIDTH_SHIFT,
    SUPPORT,
    Finding,
    epoch_text,
    significant,
    untested,
    value_text,
)
from claims.reference import fn_at_onset
from nci_plugin.dynamics.analysis import Analysis
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
    return _regularity(
        analysis, "width", "width makes collapse monotonically faster", regularities.never_later, trend=True
    )


def _regularity(
    analysis: Analysis, factor: str, claim: str, pattern: regularities.Pattern, trend: bool = False
) -> Finding:
    test = "a trend test of censored onsets (Gehan, one side)" if trend else "Kruskal-Wallis of the onsets (none: last)"
    rule = (
        f"of the median onsets by level, over resamples of each level's runs: confirmed where the pattern holds in at"
        f" least {SUPPORT:.0%} of them and {test} gives p < {SIGNIFICANT:g} by permutation; not confirmed where the"
        f" pattern holds in at most {1 - SUPPORT:.0%}; other conditions held"
    )
    found = regularities.regularity(analysis.runs, analysis.onsets, factor, pattern)
    if found is None:
        return untested(claim, rule, f"no three levels of {factor} with all else the same and an onset")
    support = found.support
    p = _trend(analysis, factor) if trend else kruskal(list(found.onsets.values()))
    confirmed = support >= SUPPORT and significant(p)
    return Finding(
        claim,
        f"median onset {_levels(found)}; the pattern {'holds' if found.holds else 'does not hold'}",
        f"{found.n} ({', '.join(str(len(values)) for values in found.onsets.values())})",
        f"in {support:.0%} of resamples",
        CONFIRMED if confirmed else NOT_CONFIRMED if support <= 1 - SUPPORT else CANNOT_TELL,
        rule,
        p,
    )


def _trend(analysis: Analysis, factor: str) -> float:
    """`censored_trend` over the slice that `regularity` chose."""
    part = regularities.best_slice(analysis.runs, analysis.onsets, factor, LEAST_LEVELS)
    assert part is not None
    pairs = [(place, analysis.onsets[run.run]) for place, runs in enumerate(part.by_level.values()) for run in runs]
    places, onsets = zip(*pairs)
    return censored_trend(places, [each.epoch for each in onsets], [each.observed for each in onsets])


def activation(analysis: Analysis) -> Finding:
    claim = "the activation determines both the speed of collapse and fn*"
    rule = (
        f"confirmed: Kruskal-Wallis over activations, all else held, gives p < {SIGNIFICANT:g} by permutation for the"
        " onset (none: last) and for fn*; not confirmed: both are tested by enough runs, and neither does"
    )
    part = regularities.best_slice(analysis.runs, analysis.onsets, "activation", 2)
    if part is None:
        return untested(claim, rule, "no two activations with all else the same and an onset")
    onsets = {level: [analysis.onsets[run.run] for run in runs] for level, runs in part.by_level.items()}
    speeds = {level: [regularities.speed(each) for each in some] for level, some in onsets.items()}
    norms = {
        level: [each.fn for each in some if each.observed and each.fn is not None] for level, some in onsets.items()
    }
    samples = [list(speeds.values()), [some for some in norms.values() if some]]
    p = [kruskal(some) for some in samples]
    neither = all(
        smallest_p([len(each) for each in some]) < SIGNIFICANT and not significant(value)
        for some, value in zip(samples, p)
    )
    both = None if None in p else max(value for value in p if value is not None)
    medians = ", ".join(f"{level}: {epoch_text(regularities.upper_median(some))}" for level, some in speeds.items())
    means = ", ".join(f"{level}: {np.mean(some):.3g}" for level, some in norms.items() if some)
    return Finding(
        claim,
        f"median onset {medians}; mean fn* {means}",
        ", ".join(str(len(some)) for some in speeds.values()),
        f"p = {value_text(p[0], '.2g')} (onset), {value_text(p[1], '.2g')} (fn*)",
        CONFIRMED if significant(both) else NOT_CONFIRMED if neither else CANNOT_TELL,
        rule,
        both,
    )


def width_shift(analysis: Analysis) -> Finding:
    claim = f"width shifts fn* by at most {PUBLISHED_WIDTH_SHIFT:.0%}"
    rule = (
        f"largest less smallest mean fn* of a width, as a share of the mean: confirmed where no two widths differ by"
        f" {PUBLISHED_WIDTH_SHIFT:.0%} or more (two one-sided tests by Welch, p < {SIGNIFICANT:g}), not confirmed where"
        " it is larger; widths with two onsets"
    )
    part = regularities.best_slice(analysis.runs, analysis.onsets, "width", 2)
    values: dict[Condition, list[float]] = {}
    for level, runs in part.by_level.items() if part else ():
        values[level] = [fn for run in runs if (fn := fn_at_onset(analysis, run)) is not None]
    known = {level: some for level, some in values.items() if len(some) > 1}
    if len(known) < 2:
        return untested(claim, rule, "no two widths with two onsets each and all else the same")

    samples = list(known.values())
    means = [float(np.mean(some)) for some in samples]
    shift = (max(means) - min(means)) / float(np.mean(np.concatenate(samples)))
    p = equivalence(samples, PUBLISHED_WIDTH_SHIFT)
    above = NOT_CONFIRMED if shift > PUBLISHED_WIDTH_SHIFT else CANNOT_TELL
    return Finding(
        claim,
        f"{shift:.0%}; mean fn* " + ", ".join(f"{level}: {mean:.3g}" for level, mean in zip(known, means)),
        ", ".join(str(len(some)) for some in samples),
        "-",
        CONFIRMED if significant(p) else above,
        rule,
        p,
    )


def _levels(found: Regularity) -> str:
    return ", ".join(f"{level}: {epoch_text(value)}" for level, value in zip(found.onsets, found.medians))
