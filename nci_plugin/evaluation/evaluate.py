"""Detectors x splits -> Results, from one network's FeatureBank."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Union

import numpy as np
import torch
from tqdm import tqdm

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, TEST, TRAIN, Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import DetectorSetup
from nci_plugin.evaluation.precision import AMP_SHIFT, answer_and_compare
from nci_plugin.evaluation.results import Result
from nci_plugin.evaluation.search import Answers, Method, Scores
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.metrics import OODMetrics, accuracy, ood_metrics
from nci_plugin.networks.calling import without_autocast

Contestant = Union[DetectorSetup, Method]


@dataclass
class Evaluation:
    """What the detectors answered on one network: Results, scores by detector and split, and who failed and why."""

    results: list[Result] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


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
    finished: Callable[[Evaluation], None] = lambda _: None,
    progress: bool = False,
) -> Evaluation:
    """Fit, search and score every detector on stored features, and compute OpenOOD's metrics in both settings.

    The full-spectrum setting is there only if the benchmark has covariate-shifted sets. A detector that cannot be used
    on this network is named in ``failures`` with its reason; the others go on. ``finished`` is called with what each
    detector gave as soon as it is there, so that an interruption loses nothing but the detector at work. With
    ``progress`` a bar is shown on a terminal.
    """
    evaluation = Evaluation()
    tested = [name for name in bank.splits if name == TEST or name.split("/")[0] in (CSID, NEAR, FAR)]
    accuracies = {setting: _accuracy(bank, splits) for setting, splits in id_splits(benchmark).items()}
    quiet = None if progress else True  # None: quiet unless standard error is a terminal
    for setup in (bar := tqdm(setups, desc="score", unit="detector", disable=quiet)):
        bar.set_postfix_str(setup.name)
        if setup.fits_on is not FitsOn.NOTHING and TRAIN not in benchmark.splits:
            evaluation.failures[setup.name] = f"the benchmark lacks the split '{TRAIN}', on which it fits; add it"
            continue
        try:
            if isinstance(setup, DetectorSetup):
                answers, shift = answer_and_compare(setup, bank, tested)
            else:
                answers, shift = setup.answer(bank, benchmark, tested), {}
        except PluginError as error:
            evaluation.failures[setup.name] = str(error)
            continue
        except Exception as error:  # a detector of the user's, or memory that ran out: the others go on
            evaluation.failures[setup.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            continue
        searched = {name: list(values) for name, values in setup.sweep.items()}
        configured = setup.detector.get_hyperparameters() if isinstance(setup, DetectorSetup) else {}
        formula = {"formula": setup.detector.formula} if isinstance(setup, DetectorSetup) else {}
        settings = {"sweep": searched, "configured": configured, **formula, **({AMP_SHIFT: shift} if shift else {})}
        rows = _Rows(bank, benchmark, setup.name, answers, seed, {**(provenance or {}), **settings})
        results = [
            row
            for setting, splits in id_splits(benchmark).items()
            for row in rows.of_setting(setting, splits, accuracies[setting])
        ]
        finished(Evaluation(results, {setup.name: answers.scores}))
        evaluation.results += results
        evaluation.scores[setup.name] = answers.scores
    return evaluation


def id_splits(benchmark: Benchmark) -> dict[str, list[str]]:
    """The splits that count as ID in each setting."""
    settings = {"ood": [TEST]}
    if benchmark.data_sets(CSID):
        settings["fsood"] = [TEST, *(f"{CSID}/{name}" for name in benchmark.data_sets(CSID))]
    return settings


def _accuracy(bank: FeatureBank, splits: Sequence[str]) -> float:
    predictions = np.concatenate([bank.splits[name].predictions.numpy() for name in splits])
    return accuracy(predictions, np.concatenate([bank.splits[name].labels.numpy() for name in splits]))


@dataclass(frozen=True)
class _Rows:
    """What the rows of one detector share."""

    bank: FeatureBank
    benchmark: Benchmark
    detector: str
    answers: Answers
    seed: str
    provenance: Mapping[str, Any]

    def of_setting(self, setting: str, id_names: Sequence[str], acc: float) -> list[Result]:
        scores: Scores = self.answers.scores
        id_scores = np.concatenate([scores[name] for name in id_names])
        rows = []
        for group in (NEAR, FAR):
            data_sets = self.benchmark.data_sets(group)
            metrics = [ood_metrics(id_scores, scores[f"{group}/{name}"]) for name in data_sets]
            counts = [len(scores[f"{group}/{name}"]) for name in data_sets]
            if data_sets:
                means = np.mean([list(asdict(each).values()) for each in metrics], axis=0)
                metrics.append(OODMetrics(*map(float, means)))
                counts.append(sum(counts))
                data_sets.append(GROUP_ROWS[group])
            rows += [
                self._row(setting, group, name, each, acc, len(id_scores), count)
                for name, each, count in zip(data_sets, metrics, counts)
            ]
        return rows

    def _row(
        self, setting: str, group: str, data_set: str, metrics: OODMetrics, acc: float, n_id: int, n_ood: int
    ) -> Result:
        from nci_plugin import __version__

        return Result(
            benchmark=self.benchmark.name,
            detector=self.detector,
            setting=setting,
            group=group,
            dataset=data_set,
            seed=self.seed,
            **asdict(metrics),
            acc=acc,
            n_id=n_id,
            n_ood=n_ood,
            hyperparameters=dict(self.answers.hyperparameters),
            chosen_by=self.answers.chosen_by,
            seconds={phase: round(value, 4) for phase, value in self.answers.seconds.items()},
            provenance={
                **self.bank.provenance,
                **self.provenance,
                "nci_plugin": __version__,
                "numpy": np.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        )
