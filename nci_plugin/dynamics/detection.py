"""Detection along training: which epoch is best for it, and when pScore beats MSP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nci_plugin.dynamics.intervals import Interval, bootstrap_mean, mean, median
from nci_plugin.dynamics.onset import Onset
from nci_plugin.dynamics.trajectory import GROUPS, Trajectory

SCORE, BASELINE = "pscore", "msp"
"""The two that the NCI paper compares at an early epoch (Liu & Qin, CVPR 2025)."""


def measured(run: Trajectory) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Detector, group and AUROC in percent by epoch, of all that were measured at some epoch."""
    for detector in dict.fromkeys(name for record in run.records for name in record.auroc):
        for group in GROUPS:
            values = run.auroc(detector, group)
            if np.isfinite(values).any():
                yield detector, group, values


# -------------------------------------------------------------------- the best epoch


@dataclass(frozen=True)
class BestEpoch:
    """Epochs of the highest AUROC of a detector and of the highest accuracy, the first of equals; AUROC in percent.

    ``accuracy_on`` is the set of the accuracy, ``test`` or ``train``. ``lost`` is the AUROC at the best epoch less that
    at the most accurate one, ``lost_at_end`` less that at the last one that was measured. ``n`` epochs were.
    """

    run: str
    detector: str
    group: str
    epoch: int
    auroc: float
    accuracy_epoch: int
    accuracy_on: str
    lost: float
    lost_at_end: float
    n: int


@dataclass(frozen=True)
class BestEpochs:
    """`BestEpoch` over ``runs`` runs: medians of epochs, means of AUROC and of what is lost, in percent points.

    ``earlier`` and ``later`` runs have their best epoch for detection before or after the one for accuracy.
    """

    detector: str
    group: str
    runs: int
    epoch: float
    accuracy_epoch: float
    earlier: int
    later: int
    auroc: float
    lost: float
    lost_interval: Interval
    lost_at_end: float
    lost_at_end_interval: Interval


def best_epochs(run: Trajectory) -> list[BestEpoch]:
    """The best epoch for every detector and group of a run, where AUROC and an accuracy were both measured."""
    found = []
    on = "test" if run.logs("test_accuracy") else "train"
    accuracy = run.series(f"{on}_accuracy")
    for detector, group, auroc in measured(run):
        known = np.flatnonzero(np.isfinite(auroc) & np.isfinite(accuracy))
        if len(known):
            best, accurate = known[auroc[known].argmax()], known[accuracy[known].argmax()]
            epoch, accuracy_epoch = (int(run.epochs[place]) for place in (best, accurate))
            highest, *others = (float(auroc[place]) for place in (best, accurate, known[-1]))
            lost, lost_at_end = (highest - other for other in others)
            found.append(
                BestEpoch(run.run, detector, group, epoch, highest, accuracy_epoch, on, lost, lost_at_end, len(known))
            )
    return found


def best_over_runs(found: Sequence[BestEpoch]) -> list[BestEpochs]:
    """What the best epochs of several runs say together, by detector and group; intervals by bootstrap over runs."""
    sets = pd.DataFrame(map(asdict, found), columns=[each.name for each in fields(BestEpoch)])
    return [
        BestEpochs(
            detector=detector,
            group=group,
            runs=len(some),
            epoch=float(some.epoch.median()),
            accuracy_epoch=float(some.accuracy_epoch.median()),
            earlier=int((some.epoch < some.accuracy_epoch).sum()),
            later=int((some.epoch > some.accuracy_epoch).sum()),
            auroc=float(some.auroc.mean()),
            lost=float(some.lost.mean()),
            lost_interval=bootstrap_mean(some.lost),
            lost_at_end=float(some.lost_at_end.mean()),
            lost_at_end_interval=bootstrap_mean(some.lost_at_end),
        )
        for (detector, group), some in sets.groupby(["detector", "group"], sort=False)
    ]


# -------------------------------------------------------------------- pScore against MSP


@dataclass(frozen=True)
class Overtaking:
    """The first measured ``epoch`` at which pScore's AUROC is above MSP's, None where it never is.

    ``measure`` is the onset's metric at that epoch; ``at_onset`` is epoch less that of the run's onset, None where
    there is no onset. ``ahead`` is the share of the ``n`` measured epochs in which pScore is above, 0..1.
    """

    run: str
    group: str
    epoch: int | None
    measure: float | None
    at_onset: int | None
    ahead: float
    n: int


@dataclass(frozen=True)
class Overtakings:
    """`Overtaking` over ``runs`` runs, ``ever`` of which it came in: medians over these, and the mean ``ahead`` of all.

    ``before_onset`` of the ``with_onset`` runs that have an onset were overtaken before it.
    """

    group: str
    runs: int
    ever: int
    epoch: float | None
    measure: float | None
    least_measure: float | None
    with_onset: int
    before_onset: int
    ahead: float
    ahead_interval: Interval


def overtakings(run: Trajectory, onset: Onset, metric: str = "nc1_quotient") -> list[Overtaking]:
    """The epoch at which pScore first beats MSP, in each group in which both were measured."""
    found = []
    for group in GROUPS:
        difference = run.auroc(SCORE, group) - run.auroc(BASELINE, group)
        known = np.flatnonzero(np.isfinite(difference))
        if not len(known):
            continue
        above = difference[known] > 0
        epoch = value = None
        if above.any():
            first = known[above.argmax()]
            epoch, value = int(run.epochs[first]), mean([run.series(metric)[first]])
        at_onset = epoch - onset.epoch if epoch is not None and onset.observed else None
        found.append(Overtaking(run.run, group, epoch, value, at_onset, float(above.mean()), len(known)))
    return found


def overtakings_over_runs(found: Sequence[Overtaking], onsets: Sequence[Onset]) -> list[Overtakings]:
    """What the overtakings of several runs say together, by group; ``onsets`` of the same runs."""
    observed = {onset.run for onset in onsets if onset.observed}
    sets: dict[str, list[Overtaking]] = {}
    for each in found:
        sets.setdefault(each.group, []).append(each)
    return [
        Overtakings(
            group=group,
            runs=len(some),
            ever=sum(each.epoch is not None for each in some),
            epoch=median(each.epoch for each in some),
            measure=median(each.measure for each in some),
            least_measure=min((each.measure for each in some if each.measure is not None), default=None),
            with_onset=sum(each.run in observed for each in some),
            before_onset=sum(each.at_onset is not None and each.at_onset < 0 for each in some),
            ahead=float(np.mean([each.ahead for each in some])),
            ahead_interval=bootstrap_mean(each.ahead for each in some),
        )
        for group, some in sets.items()
    ]
