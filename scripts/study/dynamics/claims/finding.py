"""A claim against what was measured: a verdict by a stated rule, and the words that a finding is written in.

A rule answers ``confirmed``, ``not confirmed``, or ``cannot tell`` where the runs are too few or disagree. What is
confirmed has a p-value below SIGNIFICANT, and still has it adjusted for all claims (`adjusted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from regularities import NEVER
from scipy import stats
from significance import SIGNIFICANT, benjamini_hochberg

from nci_plugin.dynamics.intervals import LEVEL, Interval

CONFIRMED, NOT_CONFIRMED, CANNOT_TELL = "confirmed", "not confirmed", "cannot tell"

PUBLISHED_CV = 0.08
PUBLISHED_LEAD, PUBLISHED_MAE = 62, 24
PUBLISHED_WIDTH_SHIFT = 0.13
PUBLISHED_SMALLEST_NC1 = 0.076
"""All of arXiv 2604.00230; lead and error in epochs, in sample, over 8 runs; the NC1 is that of cross-entropy alone."""

SUPPORT = 0.95
"""Share of runs or of resamples in which a pattern must hold to be confirmed."""


@dataclass(frozen=True)
class Finding:
    """A claim, what was measured, on how many runs, with what interval, and the verdict by the rule.

    ``p`` is of the test that the rule names, None where nothing was tested; ``q`` is p adjusted for the other claims.
    """

    claim: str
    measured: str
    n: str
    interval: str
    verdict: str
    rule: str
    p: float | None = None
    q: float | None = None


def adjusted(found: Sequence[Finding]) -> list[Finding]:
    """Some findings with their q (Benjamini & Hochberg 1995); where it is not below SIGNIFICANT, none is confirmed."""
    tested = [each for each in found if each.p is not None]
    q = iter(benjamini_hochberg([each.p for each in tested if each.p is not None]))
    results = [each if each.p is None else replace(each, q=next(q)) for each in found]
    return [
        replace(each, verdict=CANNOT_TELL) if each.verdict == CONFIRMED and not significant(each.q) else each
        for each in results
    ]


def significant(p: float | None) -> bool:
    return p is not None and p < SIGNIFICANT


def untested(claim: str, rule: str, lacking: str) -> Finding:
    """A claim that these runs say nothing of, and why."""
    return Finding(claim, f"not tested: {lacking}", "0", "-", CANNOT_TELL, rule)


# -------------------------------------------------------------------- intervals


def proportion(count: int, total: int) -> Interval:
    """Exact interval of a share (Clopper & Pearson 1934)."""
    if not total:
        return None
    bounds = stats.binomtest(count, total).proportion_ci(LEVEL, method="exact")
    return float(bounds.low), float(bounds.high)


def high(bounds: Interval) -> float:
    return NEVER if bounds is None else bounds[1]


# -------------------------------------------------------------------- words


def name_of(group: Sequence[str]) -> str:
    return ", ".join(group)


def interval_text(bounds: Interval, form: str) -> str:
    return "-" if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def value_text(value: float | None, form: str = ".0f") -> str:
    return "-" if value is None else f"{value:{form}}"


def share_of(value: float | None) -> float:
    return 0.0 if value is None else value


def epoch_text(value: float) -> str:
    return "never" if value == NEVER else f"{value:g}"
