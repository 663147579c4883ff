"""Contestants x splits -> Results, from one network's FeatureBank."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from nci_plugin import __version__
from nci_plugin.benchmarks.benchmark import (
    CSID,
    FAR,
    GROUP_ROWS,
    NEAR,
    OOD_VALIDATION,
    TEST,
    TRAIN,
    VALIDATION,
    Benchmark,
    Split,
)
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.alternatives import ALTERNATIVES, VALIDATED_ON, described
from nci_plugin.evaluation.contestant import Answers, Contestant
from nci_plugin.evaluation.evaluation import Evaluation
from nci_plugin.evaluation.precision import AMP_SHIFT
from nci_plugin.evaluation.results import Result
from nci_plugin.evaluation.thin import STATISTICS, sentence, thin_statistics
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import CHUNK_ROWS, FeatureSplit
from nci_plugin.metrics import OODMetrics, accuracy, ood_metrics
from nci_plugin.networks.calling import without_autocast
from nci_plugin.progress import progress as shown_progress


def training_needed(setups: Sequence[Contestant]) -> frozenset[FitsOn]:
    """What the detectors need of the training split; empty if they need nothing."""
    return frozenset(setup.fits_on for setup in setups) - {FitsOn.NOTHING}


@without_autocast()
def evaluate_bank(
    bank: FeatureBank,
    benchmark: Benchmark,
    setups: Sequence[Contestant],
    seed: str = "",
    provenance: Mapping[str, Any] | None = None,
    finished: Callable[[Contestant, Evaluation], None] = lambda setup, part: None,
    progress: bool = False,
    kept: Mapping[str, Evaluation] | None = None,
) -> Evaluation:
    """Fit, search and score every detector on stored features, and compute OpenOOD's metrics in both settings.

    The full-spectrum setting is there only if the benchmark has covariate-shifted sets. A detector that cannot be used
    on this network is named in ``failures`` with its reason; the others go on. ``finished`` is called with what each
    detector gave as soon as it is there, so that an interruption loses nothing but the detector at work. With
    ``progress`` a bar is shown on a terminal. What ``kept`` has of a detector is taken as it is. An ID validation
    split that is the ID test split too, row by row, is kept from the detectors: what is tested on fits, calibrates and
    chooses nothing. Every process of the bank must call this; the first has the Evaluation.
    """
    seen = {VALIDATION, TEST} <= set(bank.splits) and _same(bank.splits[VALIDATION], bank.splits[TEST])
    bank = _without_validation(bank) if seen else bank
    is_first = bank.processes.is_first
    statistics = thin_statistics(bank) if is_first else {}
    evaluation = Evaluation(thin=sentence(statistics))
    tested = [name for name in bank.splits if Split.parse(name).is_tested]
    accuracies = {setting: _accuracy(bank, splits) for setting, splits in id_splits(benchmark).items() if is_first}
    for setup in _told(setups, progress):
        if kept and setup.name in kept:
            evaluation.results += kept[setup.name].results
            evaluation.scores |= kept[setup.name].scores
            continue
        if not is_first and setup.detector is None:  # one that scores whole benchmarks is the first process's
            continue
        try:
            if setup.fits_on is not FitsOn.NOTHING and TRAIN not in benchmark.splits:
                raise PluginError(f"the benchmark lacks the split '{TRAIN}', on which it fits; add it")
            if seen and setup.detector is not None and setup.detector.needs_validation:
                raise PluginError(
                    f"detector '{setup.name}': calibrates on the ID validation split, whose samples are tested on"
                    " too, so that its numbers would be too good; test on others (in a folder, those of test/)"
                )
            answers = setup.answer(bank, benchmark, tested)
        except PluginError as error:
            evaluation.failures[setup.name] = str(error)
            continue
        except Exception as error:  # a detector of the user's, or memory that ran out: the others go on
            evaluation.failures[setup.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        if not is_first:
            continue
        searched = {name: list(values) for name, values in setup.sweep.items()}
        settings: dict[str, Any] = {"sweep": searched, "configured": dict(setup.configured)}
        if statistics:
            settings[STATISTICS] = statistics
        if setup.detector is not None:
            settings |= {"detector": setup.detector.name, "formula": setup.detector.formula}
        if answers.shift:
            settings[AMP_SHIFT] = dict(answers.shift)
        if answers.alternatives:
            settings |= {ALTERNATIVES: answers.alternatives, VALIDATED_ON: described(benchmark.splits[OOD_VALIDATION])}
        told = {**(provenance or {}), **settings}
        results = list(_rows(bank, benchmark, setup.name, answers, seed, told, accuracies))
        finished(setup, Evaluation(results, {setup.name: answers.scores}))
        evaluation.results += results
        evaluation.scores[setup.name] = answers.scores
    return evaluation


def _without_validation(bank: FeatureBank) -> FeatureBank:
    """The bank without the ID validation split, of features and of images."""

    def others(splits: Mapping[str, Any]) -> dict[str, Any]:
        return {name: split for name, split in splits.items() if name != VALIDATION}

    return replace(
        bank,
        splits=others(bank.splits),
        images=bank.images and replace(bank.images, splits=others(bank.images.splits)),
    )


def _same(one: FeatureSplit, other: FeatureSplit) -> bool:
    """Whether two splits have the same features and labels, in the same order."""
    blocks = [(start, min(start + CHUNK_ROWS, len(one))) for start in range(0, len(one), CHUNK_ROWS)]
    return len(one) == len(other) and all(
        torch.equal(mine.labels, its.labels) and torch.equal(mine.features, its.features)
        for mine, its in ((one.rows(*block), other.rows(*block)) for block in blocks)
    )


def _told(setups: Sequence[Contestant], shown: bool) -> Iterator[Contestant]:
    """Each in turn, while it is told how far they are."""
    with shown_progress("score", "detector", len(setups), shown) as bar:
        for setup in setups:
            bar.set_postfix_str(setup.name)
            yield setup
            bar.update()


def id_splits(benchmark: Benchmark) -> dict[str, list[str]]:
    """The splits that count as ID in each setting."""
    settings = {"ood": [TEST]}
    if benchmark.data_sets(CSID):
        settings["fsood"] = [TEST, *(f"{CSID}/{name}" for name in benchmark.data_sets(CSID))]
    return settings


def _accuracy(bank: FeatureBank, splits: Sequence[str]) -> float:
    predictions = np.concatenate([bank.splits[name].predictions.numpy() for name in splits])
    return accuracy(predictions, np.concatenate([bank.splits[name].labels.numpy() for name in splits]))


def _rows(
    bank: FeatureBank,
    benchmark: Benchmark,
    detector: str,
    answers: Answers,
    seed: str,
    provenance: Mapping[str, Any],
    accuracies: Mapping[str, float],
) -> Iterator[Result]:
    """A row for each setting and OOD set, and one for the mean of each group."""
    versions = {
        "nci_plugin": __version__,
        "numpy": np.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    scores = answers.scores
    for setting, id_names in id_splits(benchmark).items():
        id_scores = np.concatenate([scores[name] for name in id_names])
        for group in (NEAR, FAR):
            sets = {name: scores[f"{group}/{name}"] for name in benchmark.data_sets(group)}
            metrics = {name: ood_metrics(id_scores, ood_scores) for name, ood_scores in sets.items()}
            counts = {name: len(ood_scores) for name, ood_scores in sets.items()}
            if sets:
                means = np.mean([list(asdict(each).values()) for each in metrics.values()], axis=0)
                metrics[GROUP_ROWS[group]] = OODMetrics(*map(float, means))
                counts[GROUP_ROWS[group]] = sum(counts.values())
            for name in metrics:
                yield Result(
                    benchmark=benchmark.name,
                    detector=detector,
                    setting=setting,
                    group=group,
                    dataset=name,
                    seed=seed,
                    **asdict(metrics[name]),
                    acc=accuracies[setting],
                    n_id=len(id_scores),
                    n_ood=counts[name],
                    hyperparameters=dict(answers.hyperparameters),
                    chosen_by=answers.chosen_by,
                    seconds={phase: round(value, 4) for phase, value in answers.seconds.items()},
                    provenance={**bank.provenance, **provenance, **versions},
                )
