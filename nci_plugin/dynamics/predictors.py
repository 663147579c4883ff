"""What foretells the onset of collapse: the crossing of fn* against simpler quantities, each judged on runs left out.

A predictor fires at the first logged epoch at which its quantity crosses a reference value, the median over other runs
of its value at their onset. It predicts the onset a constant number of epochs later, the median over the same runs of
what was between. Medians serve all quantities alike: a loss and its logarithm give the same predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from nci_plugin.dynamics.conditions import by_group, cell
from nci_plugin.dynamics.intervals import Interval, bootstrap, bootstrap_mean, mean, median
from nci_plugin.dynamics.onset import CENSORED, Onset
from nci_plugin.dynamics.trajectory import FN, Trajectory

FALLING, RISING, BELOW = "falling", "rising", "below"


@dataclass(frozen=True)
class Predictor:
    """A quantity of a run (see `Trajectory.series`) and the way that it must cross its reference.

    ``falling`` and ``rising`` need a logged epoch on the other side before; ``below`` may be so from the start.
    """

    series: str
    way: str

    def fires(self, run: Trajectory, reference: float) -> int | None:
        """The first epoch at which the quantity has crossed the reference, None where it never does."""
        values = run.series(self.series)
        past = values >= reference if self.way == RISING else values <= reference
        if self.way != BELOW:
            before = np.concatenate([[False], np.isfinite(values[:-1]) & ~past[:-1]])
            past = past & before
        return int(run.epochs[past.argmax()]) if past.any() else None


PREDICTORS: dict[str, Predictor] = {
    "fn* falling": Predictor(FN, FALLING),
    "fn* rising": Predictor(FN, RISING),
    "train loss": Predictor("train_loss", BELOW),
    "train error": Predictor("train_error", BELOW),
    "weight norm falling": Predictor("weight_norm", FALLING),
    "weight norm rising": Predictor("weight_norm", RISING),
    "NC2": Predictor("nc2_equiangular_means", BELOW),
}
"""The paper's predictor is the first: fn crossing below fn* (arXiv 2604.00230)."""

MEDIAN_ONSET = "median onset"
"""The predictor that looks at nothing: the median onset of the other runs. One that is no better knows nothing."""

IN_SAMPLE, ONE_RUN, ONE_CONDITION = "in sample", "one run out", "one condition out"

Others = Callable[[Trajectory, Sequence[Trajectory]], list[Trajectory]]

LEFT_OUT: dict[str, Others] = {
    IN_SAMPLE: lambda run, runs: list(runs),
    ONE_RUN: lambda run, runs: [other for other in runs if other.run != run.run],
    ONE_CONDITION: lambda run, runs: [other for other in runs if cell(other) != cell(run)],
}
"""Which runs a run's references come from: all, itself included; all others; those of other conditions than its own."""


@dataclass(frozen=True)
class Forecast:
    """What a predictor said of one run; epochs, None where it did not fire or no other run gave a reference."""

    run: str
    reference: float | None
    fired: float | None
    predicted: float | None
    onset: int
    observed: bool

    @property
    def lead(self) -> float | None:
        return self.onset - self.fired if self.observed and self.fired is not None else None

    @property
    def error(self) -> float | None:
        return abs(self.predicted - self.onset) if self.observed and self.predicted is not None else None


@dataclass(frozen=True)
class Skill:
    """How good a predictor was over the runs of a group, intervals by bootstrap over runs, references as they were.

    ``n`` runs had an onset, in ``silent`` of them it never fired. ``lead``: mean epochs from firing to onset, negative
    where it fires afterwards. ``mae``: mean |predicted - onset| in epochs, over runs in which it fired. ``before``:
    share of the n runs in which it fired before the onset. ``concordance``: share of comparable pairs of runs that it
    puts in the right order, 0.5 is chance (Harrell et al. 1982); ``tau``: Kendall's over runs with both. Of
    ``censored`` runs ``false_alarms`` were predicted to have had their onset by the last epoch.
    """

    group: tuple[str, ...]
    predictor: str
    left_out: str
    n: int
    silent: int
    censored: int
    false_alarms: int
    lead: float | None
    lead_interval: Interval
    mae: float | None
    mae_interval: Interval
    before: float | None
    before_interval: Interval
    concordance: float | None
    concordance_interval: Interval
    tau: float | None
    forecasts: Sequence[Forecast]


def compare(runs: Sequence[Trajectory], onsets: Mapping[str, Onset]) -> list[Skill]:
    """Every predictor, way to leave runs out, and group with two onsets.

    Runs whose features vanish are left out, and those to which no other run gives a reference.
    """
    found = []
    for group, members in by_group(runs).items():
        used = [run for run in members if onsets[run.run].observed or onsets[run.run].outcome == CENSORED]
        if sum(onsets[run.run].observed for run in used) < 2:
            continue
        for name in (*PREDICTORS, MEDIAN_ONSET):
            if name in PREDICTORS and not all(run.logs(PREDICTORS[name].series) for run in used):
                continue
            for left_out in LEFT_OUT:
                made = [each for each in forecast(name, used, onsets, left_out) if each.reference is not None]
                if any(each.observed for each in made):
                    found.append(_skill(group, name, left_out, made))
    return found


def forecast(name: str, runs: Sequence[Trajectory], onsets: Mapping[str, Onset], left_out: str) -> list[Forecast]:
    """The forecast of every run, from references of the runs that `LEFT_OUT` gives."""
    forecasts = []
    for run in runs:
        teachers = [each for each in LEFT_OUT[left_out](run, runs) if onsets[each.run].observed]
        reference, lead = _learn(name, teachers, onsets)
        fired = _fires(name, run, reference)
        predicted = fired + lead if fired is not None and lead is not None else None
        onset = onsets[run.run]
        forecasts.append(Forecast(run.run, reference, fired, predicted, onset.epoch, onset.observed))
    return forecasts


def _learn(name: str, teachers: Sequence[Trajectory], onsets: Mapping[str, Onset]) -> tuple[float | None, float | None]:
    """Reference and lead, the medians over runs with an onset; None where no run gives one."""
    epochs = [onsets[run.run].epoch for run in teachers]
    if name == MEDIAN_ONSET:
        return median(epochs), 0.0
    series = PREDICTORS[name].series
    reference = median(float(run.series(series)[run.epochs == epoch][0]) for run, epoch in zip(teachers, epochs))
    fired = [_fires(name, run, reference) for run in teachers]
    return reference, median(onset - epoch for onset, epoch in zip(epochs, fired) if epoch is not None)


def _fires(name: str, run: Trajectory, reference: float | None) -> float | None:
    if name == MEDIAN_ONSET or reference is None:
        return reference
    return PREDICTORS[name].fires(run, reference)


# -------------------------------------------------------------------- skill


def _skill(group: tuple[str, ...], name: str, left_out: str, forecasts: Sequence[Forecast]) -> Skill:
    observed = [each for each in forecasts if each.observed]
    censored = [each for each in forecasts if not each.observed]
    fired = [(each.fired, each.onset) for each in observed if each.fired is not None]
    leads, errors = [each.lead for each in forecasts], [each.error for each in forecasts]
    before = [float(each.lead is not None and each.lead > 0) if each.observed else None for each in forecasts]
    right, pairs = firing_order(forecasts)
    return Skill(
        group=group,
        predictor=name,
        left_out=left_out,
        n=len(observed),
        silent=len(observed) - len(fired),
        censored=len(censored),
        false_alarms=sum(each.predicted is not None and each.predicted <= each.onset for each in censored),
        lead=mean(leads),
        lead_interval=bootstrap_mean(leads),
        mae=mean(errors),
        mae_interval=bootstrap_mean(errors),
        before=mean(before),
        before_interval=bootstrap_mean(before),
        concordance=_share_right(right, pairs),
        concordance_interval=bootstrap(
            range(len(forecasts)), lambda drawn: _share_right(right[np.ix_(drawn, drawn)], pairs[np.ix_(drawn, drawn)])
        ),
        tau=mean([kendalltau(*zip(*fired)).statistic]) if len(fired) > 1 else None,
        forecasts=forecasts,
    )


def firing_order(forecasts: Sequence[Forecast]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Whether each run fired before each other one (1, 0.5: a tie), and which pairs count; both (runs, runs).

    A pair counts where the earlier onset was observed, and the other one was later, or censored no earlier. One that
    never fired comes last (Harrell et al. 1982).
    """
    onset = np.array([each.onset for each in forecasts], dtype=np.float64)
    observed = np.array([each.observed for each in forecasts])
    fired = np.array([np.inf if each.fired is None else each.fired for each in forecasts], dtype=np.float64)
    later = (onset[:, None] < onset) | ((onset[:, None] == onset) & ~observed)
    return (fired[:, None] < fired) + 0.5 * (fired[:, None] == fired), observed[:, None] & later


def _share_right(right: NDArray[np.float64], pairs: NDArray[np.bool_]) -> float | None:
    return float(right[pairs].mean()) if pairs.any() else None
