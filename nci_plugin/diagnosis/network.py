"""One network's diagnosis: a record of plain numbers, and the arrays that its figures are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from nci_plugin.benchmarks.benchmark import GROUP_ROWS, TEST, TRAIN, VALIDATION, Benchmark, Split
from nci_plugin.benchmarks.folder import class_names
from nci_plugin.benchmarks.opening import image_batches
from nci_plugin.checks import PluginError
from nci_plugin.collapse import METRICS, Metric, NearestCentre, Undefined, measure, nearest_centre
from nci_plugin.collapse.geometry import centred_means, pair_cosines, pair_distances, present_classes
from nci_plugin.diagnosis.geometry import Plane, distance_from_frame, spread
from nci_plugin.diagnosis.layers import measure_layers
from nci_plugin.diagnosis.record import SPREADS, DiagnosisRecord, SplitRecord
from nci_plugin.evaluation.evaluation import Evaluation
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics

STORED = "stored features"
SECOND_PASS = "a second pass over the training images"
NOT_STORED = "not measured: no training features are stored; pass --second-pass"


@dataclass(frozen=True)
class Diagnosis:
    """The record, and the arrays of its figures, named as in `_arrays`."""

    record: DiagnosisRecord
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def diagnose_network(
    bank: FeatureBank,
    benchmark: Benchmark,
    evaluation: Evaluation,
    seed: str,
    second_pass: bool = False,
    layers: bool = False,
) -> Diagnosis:
    """Measure collapse on the training statistics, and ID and OOD splits against it.

    ``evaluation`` are the results and scores of DETECTORS on this bank. NC4 on the training set reads its stored
    features, else passes its images again with ``second_pass``, else is left out. With ``layers`` every stage is
    measured too. Raises PluginError on a bank without statistics.
    """
    statistics = bank.statistics
    if statistics is None:
        raise PluginError("diagnosis: needs the statistics of the training split; extract it")
    train, source = _train_nc4(bank, statistics, second_pass)
    held_out = [name for name in (VALIDATION, TEST) if name in bank.splits]
    shown = [name for name in bank.splits if name in held_out or Split.parse(name).is_tested]
    notes: dict[str, str] = {}

    def of_split(metric: Metric, name: str) -> float | None:
        split = bank.splits[name]
        known = {"held_out": split, "split": split, "statistics": statistics, "num_classes": benchmark.num_classes}
        return _defined(f"{metric.name} {name}", notes, metric.function, *(known[each] for each in metric.of))

    record = DiagnosisRecord(
        benchmark=benchmark.name,
        seed=seed,
        collapse=measure(statistics, bank.head, "classes"),
        collapse_sample_mean=measure(statistics, bank.head, "samples"),
        nc4={"train": train, **{name: nearest_centre(bank.splits[name], statistics) for name in held_out}},
        train_from=source,
        held_out={
            metric.name: {name: of_split(metric, name) for name in held_out}
            for metric in METRICS.values()
            if "held_out" in metric.of
        },
        splits={
            name: SplitRecord(
                n=len(bank.splits[name]),
                metrics={m.name: of_split(m, name) for m in METRICS.values() if "split" in m.of},
                frame=_defined(f"frame {name}", notes, distance_from_frame, bank.splits[name], statistics),
                spreads={
                    score: spread(evaluation.scores[score][name])
                    for score in SPREADS
                    if name in evaluation.scores.get(score, {})
                },
            )
            for name in shown
        },
        auroc=_auroc(evaluation),
        not_scored=dict(evaluation.failures),
        notes=notes,
        provenance=dict(bank.provenance),
        layers=measure_layers(bank, benchmark) if layers else None,
        class_names=class_names(bank.images.splits.get(TRAIN)) if bank.images else (),
    )
    return Diagnosis(record, _arrays(bank, statistics, shown))


def _defined(name: str, notes: dict[str, str], equation: Any, *arguments: Any) -> Any:
    """The value of an equation, or None with the reason in ``notes``."""
    try:
        return equation(*arguments)
    except Undefined as reason:
        notes[name] = str(reason)
        return None


def _auroc(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """AUROC in percent of each detector, standard OOD, by group (mean over its sets) and by data set."""
    found: dict[str, dict[str, float]] = {}
    groups = {row: group for group, row in GROUP_ROWS.items()}
    for result in evaluation.results:
        if result.setting == "ood":
            name = groups.get(result.dataset, f"{result.group}/{result.dataset}")
            found.setdefault(result.detector, {})[name] = result.auroc
    return found


def _train_nc4(bank: FeatureBank, statistics: ClassStatistics, second_pass: bool) -> tuple[NearestCentre | None, str]:
    """NC4 on the training set, and what it was read from."""
    stored = bank.splits.get(TRAIN) or (bank.training_store and bank.training_store.load())
    if stored:
        return nearest_centre(stored, statistics), STORED
    if not second_pass or bank.images is None:
        return None, NOT_STORED
    source, totals = bank.images, np.zeros(2)
    batches = image_batches(TRAIN, source.splits[TRAIN], bank.batch_size, source.workers)
    with source.forward() as forward:
        for passed in forward.over(batches, f"split '{TRAIN}'"):
            part = nearest_centre(FeatureSplit([passed.chunk]), statistics)
            totals += len(passed.chunk) * np.array([part.agreement, part.accuracy])
    return NearestCentre(*(totals / len(source.splits[TRAIN])).tolist()), SECOND_PASS


def _arrays(bank: FeatureBank, statistics: ClassStatistics, splits: list[str]) -> dict[str, NDArray[Any]]:
    """Cosines and distances of pairs of centred class means, and the plane of the class means with samples in it."""
    found: dict[str, NDArray[Any]] = {}
    centred = centred_means(statistics)
    pairs: Mapping[str, Any] = {"pair_cosines": pair_cosines, "pair_distances": pair_distances}
    for name, equation in pairs.items():
        value = _defined(name, {}, equation, centred)
        if value is not None:
            found[name] = value.numpy()
    if "pair_distances" in found:  # classes next to those that are close: clustered by mean distance
        found["class_order"] = leaves_list(linkage(found["pair_distances"], "average"))
    found["classes"] = present_classes(statistics).numpy()
    try:
        plane = Plane(statistics)
    except Undefined:
        return found
    found["plane/means"] = plane.coordinates(statistics.means[found["classes"]])
    found["plane/explained"] = np.array(plane.explained)
    for name in splits:
        if name != VALIDATION:
            sample = plane.sample(bank.splits[name])
            found[f"plane/points/{name}"], found[f"plane/labels/{name}"] = sample["points"], sample["labels"]
    return found
