"""When collapse sets in: the first logged epoch from which a property stays beyond a threshold.

The dynamics paper (arXiv 2604.00230) takes Tr(Sigma_W) / Tr(Sigma_B) < 0.01; here the crossing must last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nci_plugin.checks import check_choice, check_number
from nci_plugin.dynamics.trajectory import FN, Trajectory

ONSET = "onset"
CENSORED = "censored"
DEGENERATE = "degenerate"
OUTCOMES = (ONSET, CENSORED, DEGENERATE)


@dataclass(frozen=True)
class OnsetRule:
    """What counts as the onset of collapse. Raises PluginError on a value that cannot be used.

    ``metric`` (see `Trajectory.series`) must be below ``threshold`` (above it where ``below`` is False) for
    ``sustained`` logged epochs in a row, the first of which is the onset; only within ``phase`` where one is named
    (``last``: the one at the end of the run). A run whose fn falls below ``degenerate`` times its largest value before
    is not collapsing but vanishing.
    """

    metric: str = "nc1_quotient"
    threshold: float = 0.01
    below: bool = True
    sustained: int = 3
    phase: str = ""
    degenerate: float = 0.01

    def __post_init__(self) -> None:
        check_number("onset: threshold", self.threshold)
        check_choice("onset: below", self.below, (True, False))
        check_number("onset: sustained", self.sustained, above=0, whole=True)
        check_number("onset: degenerate", self.degenerate, least=0)

    def __str__(self) -> str:
        sign = "<" if self.below else ">"
        phase = f" in phase {self.phase}" if self.phase else ""
        return f"{self.metric} {sign} {self.threshold:g} for {self.sustained} logged epochs{phase}"


@dataclass(frozen=True)
class Onset:
    """How a run ended up.

    ``epoch`` is that of the onset, or of vanishing features (`DEGENERATE`), or the last logged one (`CENSORED`: the
    onset, if it comes, comes later). The onset lies after ``after``, the logged epoch before; None where there is none,
    so that it may lie earlier. ``fn`` is mean ||h||_2 at ``epoch``.
    """

    run: str
    outcome: str
    epoch: int
    after: int | None
    fn: float | None

    @property
    def observed(self) -> bool:
        return self.outcome == ONSET


def find_onset(run: Trajectory, rule: OnsetRule) -> Onset:
    """The onset of a run by a rule; raises PluginError where the run does not log the rule's metric."""
    part = run.in_phase(rule.phase) if rule.phase else run
    if not part.records:
        last = int(run.epochs[-1]) if len(run.epochs) else 0
        return Onset(run.run, CENSORED, last, None, None)
    fn = part.series(FN)
    crossed = first_sustained(beyond(part.series(rule.metric), rule.threshold, rule.below), rule.sustained)
    vanished = first_sustained(fn < rule.degenerate * np.fmax.accumulate(fn), rule.sustained)
    if vanished is not None and (crossed is None or vanished <= crossed + rule.sustained - 1):
        outcome, index = DEGENERATE, vanished
    elif crossed is not None:
        outcome, index = ONSET, crossed
    else:
        outcome, index = CENSORED, len(part.records) - 1
    after = int(part.epochs[index - 1]) if index else None
    return Onset(run.run, outcome, int(part.epochs[index]), after, None if np.isnan(fn[index]) else float(fn[index]))


def beyond(values: NDArray[np.float64], threshold: float, below: bool) -> NDArray[np.bool_]:
    """Where values (n,) are strictly below a threshold, or above it; nowhere that they are missing (NaN)."""
    return values < threshold if below else values > threshold


def first_sustained(holds: NDArray[np.bool_], count: int) -> int | None:
    """Index of the first of ``count`` entries in a row that hold, None where there is no such row."""
    if len(holds) < count:
        return None
    rows = np.lib.stride_tricks.sliding_window_view(holds, count).all(axis=1)
    return int(rows.argmax()) if rows.any() else None


def count_outcomes(onsets: Sequence[Onset]) -> dict[str, int]:
    """Number of runs by outcome, all OUTCOMES."""
    return {outcome: sum(onset.outcome == outcome for onset in onsets) for outcome in OUTCOMES}
