"""Hyper-parameters, chosen on the stored validation splits as OpenOOD's evaluator chooses them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import OOD_VALIDATION, TRAIN, VALIDATION
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import Detector, DetectorSetup, FitsOn
from nci_plugin.feature_bank import FeatureBank, FeatureSplit
from nci_plugin.metrics import auroc


@dataclass(frozen=True)
class Fitted:
    """A fitted detector, how its hyper-parameters were chosen, and the seconds that took."""

    detector: Detector
    chosen_by: str
    seconds: Mapping[str, float]


def fit_and_search(setup: DetectorSetup, bank: FeatureBank) -> Fitted:
    """Fit a detector, with the hyper-parameters of the best AUROC of ``id/val`` against ``ood/val``.

    The grid is tried in OpenOOD's order (the first hyper-parameter varies fastest) and only a strictly better AUROC
    replaces the best, so ties keep the earlier value. Without a sweep, or without both validation splits, the
    configured values stay.
    """
    detector = setup.detector.clone()
    grid = list(_grid(setup.sweep)) if setup.sweep else []
    validation, ood_validation = bank.splits.get(VALIDATION), bank.splits.get(OOD_VALIDATION)
    if not grid or validation is None or ood_validation is None:
        timer = _Timer()
        with timer("fit"):
            fit(detector, bank)
        reason = " (the benchmark has no validation splits to search on)" if grid else ""
        chosen_by = detector.explain_choice() or f"fixed{reason}"
        return Fitted(detector, chosen_by, timer.seconds)
    timer = _Timer()
    search = _Search(detector, bank, timer)
    tried: dict[int, float] = {}
    refused: list[str] = []
    for number, values in enumerate(grid):
        try:
            search.fit_with(values)
            with timer("search"):
                tried[number] = auroc(score_split(detector, validation), score_split(detector, ood_validation))
        except PluginError as error:  # e.g. more neighbours than samples: a value that this network cannot have
            refused.append(f"{values}: {error}")
    if not tried:
        raise PluginError(f"detector '{setup.name}': no value of its sweep can be used here; first {refused[0]}")
    best = max(tried, key=lambda number: tried[number])  # the first of equals
    search.fit_with(grid[best])
    skipped = f" ({len(refused)} more cannot be used here)" if refused else ""
    chosen_by = (
        f"search of {len(tried)} values of {', '.join(setup.sweep)}{skipped}: best AUROC of id/val against ood/val,"
        f" {100 * tried[best]:.2f}"
    ) + (f"; {detector.explain_choice()}" if detector.explain_choice() else "")
    return Fitted(detector, chosen_by, timer.seconds)


class _Timer:
    """Seconds spent in named phases."""

    def __init__(self) -> None:
        self.seconds = {"fit": 0.0, "search": 0.0}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started


@dataclass
class _Search:
    """A detector that is fitted again only when a hyper-parameter that fit reads has changed."""

    detector: Detector
    bank: FeatureBank
    timer: _Timer
    fitted_with: dict[str, Any] | None = None

    def fit_with(self, values: Mapping[str, Any]) -> None:
        self.detector.set_hyperparameters(**values)
        chosen = self.detector.get_hyperparameters()
        read = {name: chosen[name] for name in self.detector.fit_reads}
        if read != self.fitted_with:
            self.fitted_with = None  # a fit that fails leaves the detector half fitted
            with self.timer("fit"):
                fit(self.detector, self.bank)
            self.fitted_with = read


def fit(detector: Detector, bank: FeatureBank) -> Detector:
    """Fit a detector on what it needs of the bank."""
    training = {
        FitsOn.NOTHING: None,
        FitsOn.STATISTICS: bank.statistics,
        FitsOn.BANK: bank.splits.get(TRAIN),
    }[detector.fits_on]
    return detector.fit(training, bank.head, bank.splits.get(VALIDATION))


def score_split(detector: Detector, split: FeatureSplit) -> NDArray[np.floating]:
    """Scores (n,) of a split; raises PluginError on NaN and infinity, which no metric can rank."""
    parts = [detector.score(chunk.features, chunk.logits).cpu().numpy() for chunk in split.chunks()]
    scores = np.concatenate(parts)
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise PluginError(
            f"detector '{detector.name}': gave NaN or infinity for {bad} of {len(scores)} samples with"
            f" {detector.get_hyperparameters() or 'no hyper-parameters'}"
        )
    return scores


def _grid(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All combinations, the first hyper-parameter varying fastest."""
    names = list(sweep)
    return [dict(zip(names, reversed(values))) for values in product(*(sweep[name] for name in reversed(names)))]
