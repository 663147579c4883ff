"""Which detector for a network, without OOD images: a ranking on pseudo-OOD samples made of ID features.

The rule, all of it:

1. *Midpoints*: of two ID validation features that are predicted as different classes; they belong to neither.
2. *Held-out classes*: the classes are cut into five parts (fewer where there are fewer); each part in turn is OOD to
   detectors that are fitted on the training features of the others, with the others' rows of the head.
3. *Shuffled features*: each coordinate drawn from another ID validation sample, so that nothing belongs together.
4. Of each kind the AUROC of the ID validation features against it; a detector's place is that of its mean over kinds,
   and of those that tie to three digits of a percentage the first is that with the best mean in the record below.

How often the first of this ranking was right is measured on networks whose OOD sets are known, in
``data/recommended.csv`` (`scripts/study/recommended.py` makes it), and said with every recommendation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from nci_plugin.benchmarks.benchmark import TRAIN, VALIDATION
from nci_plugin.checks import PluginError
from nci_plugin.collapse import CollapseMetrics, measure
from nci_plugin.config import load_detector
from nci_plugin.deploy import images
from nci_plugin.deploy.detector import OODDetector, settings_of
from nci_plugin.deploy.fitting import detector_names, errors_name, halves
from nci_plugin.deploy.overlap import check_apart, check_contents_apart
from nci_plugin.deploy.passing import Passing
from nci_plugin.deploy.state import forget_scored
from nci_plugin.deploy.track_record import TrackRecord, measured_rows, track_record
from nci_plugin.detectors.base import Detector
from nci_plugin.evaluation.search import fit
from nci_plugin.features.bank import FeatureBank, FitsOn
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

CANDIDATES = ("msp", "mls", "ebo", "nci", "nci_plus", "pscore", "neco", "mds_pp", "rmds_pp", "knn", "nc1", "nc4", "ora")
"""Those that were measured. One that tunes itself on midpoints (nci_auto) would be judged by what it tuned on."""

TRAINING_IMAGES = 20_000
"""So many, drawn by the seed, pass through the network: the ranking hardly gains by more."""

PARTS = 5
MIDPOINTS, HELD_OUT, SHUFFLED = "midpoints", "held-out classes", "shuffled features"
KINDS = (MIDPOINTS, HELD_OUT, SHUFFLED)


@dataclass(frozen=True)
class Candidate:
    """A detector and its AUROC, in percent, against the pseudo-OOD samples of each kind, and of each of their parts."""

    name: str
    by_kind: Mapping[str, float]
    parts: Mapping[str, float]

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.by_kind.values())))


@dataclass(frozen=True, eq=False)
class Recommendation:
    """Candidates from the best on; ``left_out`` maps the others to the reason; ``detector`` is the first, unfitted.

    The validation images that chose are not those that ``detector`` will calibrate on, with the same seed.
    """

    ranking: Sequence[Candidate]
    left_out: Mapping[str, str]
    collapse: CollapseMetrics
    detector: OODDetector
    rows: Mapping[str, int]
    record: TrackRecord | None = None

    @property
    def best(self) -> str:
        return self.ranking[0].name

    @property
    def tied(self) -> list[str]:
        """Those whose mean is the first's to three digits: the pseudo-OOD samples do not tell them apart from it."""
        return [each.name for each in self.ranking[1:] if round(each.mean, 3) == round(self.ranking[0].mean, 3)]

    @property
    def wins(self) -> tuple[int, int]:
        """In how many of all pseudo-OOD sets the first is ahead of the second."""
        if len(self.ranking) < 2:
            return 0, 0
        first, second = self.ranking[:2]
        return sum(first.parts[part] > second.parts[part] for part in first.parts), len(first.parts)

    def __str__(self) -> str:
        kinds = list(self.ranking[0].by_kind)
        width = max(len(each.name) for each in self.ranking)
        lines = [f"{'detector':{width}}  {'mean':>6}  " + "  ".join(kinds) + "   (AUROC, %, of ID against pseudo-OOD)"]
        for each in self.ranking[:5]:
            values = "  ".join(f"{each.by_kind[kind]:{len(kind)}.2f}" for kind in kinds)
            lines.append(f"{each.name:{width}}  {each.mean:6.2f}  {values}")
        wins, of = self.wins
        ahead = f"; ahead of {self.ranking[1].name} in the mean, and on {wins} of {of} pseudo-OOD sets" if of else ""
        lines.append(
            f"recommended: {self.best}, from {self.rows['validation']} validation and {self.rows['train']} training"
            f" images{'' if self.tied else ahead}"
        )
        if self.tied:
            lines.append(
                f"tied with it: {', '.join(self.tied)}; the pseudo-OOD samples do not tell these apart, and the first"
                " is the one that was best, in the mean, where OOD sets are known"
            )
        metrics = self.collapse
        lines.append(
            f"collapse: Tr(Sigma_W) / Tr(Sigma_B) {_number(metrics.nc1_quotient)}, ETF error"
            f" {_number(metrics.nc2_etf_error)}, self-duality {_number(metrics.nc3_self_duality)} (0 = collapsed); no"
            " part of the ranking"
        )
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        lines.append(f"how sure: {self.record or 'not measured for these candidates'}")
        return "\n".join(lines)


def recommend(
    model: nn.Module,
    train: Any,
    validation: Any,
    detectors: Sequence[str] | None = None,
    *,
    like: OODDetector | None = None,
) -> Recommendation:
    """Rank detectors for a network by pseudo-OOD samples; no OOD image is needed.

    Args:
        model, train, validation: as in `OODDetector.fit`. Half of each class of the validation images chooses.
        detectors: names (those that the rule was measured for).
        like: an OODDetector with the settings (preprocessing, seed, tpr) that the recommended one shall have.

    Raises PluginError as `OODDetector.fit`, and where no candidate can be used.
    """
    like = settings_of(like)
    names = detector_names(CANDIDATES if detectors is None else detectors)
    candidates = {name: load_detector(name).detector for name in names}
    passing = Passing.of(model, like, "validation images", validation, train)
    opened, labelled = passing.open("validation images", validation), passing.open("training images", train)
    if len(opened) < 2:
        raise PluginError("validation images: recommend needs two, of which one chooses, got 1; pass more")
    images.agreed_names([opened, labelled], like.class_names, passing.num_classes)
    training: Any = labelled.split
    check_apart(training, opened.split)
    if len(training) > TRAINING_IMAGES:
        drawn = np.random.default_rng(like.seed).permutation(len(training))[:TRAINING_IMAGES]
        training = Subset(training, np.sort(drawn).tolist())
    bank, _ = passing.bank({VALIDATION: opened.split, TRAIN: training}, {FitsOn.BANK})
    check_contents_apart(labelled.split, opened.split)
    choosing, _ = halves(bank.splits[VALIDATION], like.seed)
    ranking, left_out = rank(candidates, bank.splits[TRAIN], choosing, bank.head, like.seed)
    statistics = statistics_of(bank.splits[TRAIN], passing.num_classes)
    rows = {"train": len(training), "validation": len(choosing)}
    measured = set(names) <= {row.detector for row in measured_rows()}
    return Recommendation(
        ranking,
        left_out,
        measure(statistics, bank.head, "classes"),
        like.with_detector(ranking[0].name),
        rows,
        track_record(names) if measured else None,
    )


# -------------------------------------------------------------------- the rule


def rank(
    candidates: Mapping[str, Detector], train: FeatureSplit, validation: FeatureSplit, head: LinearHead, seed: int
) -> tuple[list[Candidate], dict[str, str]]:
    """Candidates from the best on, and why others are left out; raises PluginError where none is left."""
    ranking, left_out = [], {}
    sets = _pseudo_ood(train, validation, head, seed)
    for name, detector in candidates.items():
        try:
            with errors_name(detector):
                parts = {part: 100 * _auroc(detector, *given) for part, given in sets.items()}
        except PluginError as error:
            left_out[name] = str(error)
            continue
        kinds = {kind: [value for part, value in parts.items() if part.startswith(kind)] for kind in KINDS}
        ranking.append(Candidate(name, {kind: float(np.mean(v)) for kind, v in kinds.items() if v}, parts))
    if not ranking:
        name, reason = next(iter(left_out.items()))
        raise PluginError(f"recommend: no detector can be used on this network; first {name}: {reason}")
    truths: dict[str, list[float]] = {}
    for row in measured_rows():
        truths.setdefault(row.detector, []).append(row.truth)
    means = {name: float(np.mean(values)) for name, values in truths.items()}
    return sorted(ranking, key=lambda each: (-round(each.mean, 3), -means.get(each.name, 0.0))), left_out


Given = tuple[FeatureSplit, FeatureSplit, FeatureSplit, LinearHead]
"""Training features, ID features, pseudo-OOD features and the head that they are judged with."""


def _pseudo_ood(train: FeatureSplit, validation: FeatureSplit, head: LinearHead, seed: int) -> dict[str, Given]:
    """The pseudo-OOD sets by name, which begins with their kind."""
    generator = np.random.default_rng(seed)
    features, logits = validation.features, validation.logits
    one, other = generator.permutation(len(features)), generator.permutation(len(features))
    predicted = logits.argmax(dim=1).numpy()
    apart = predicted[one] != predicted[other]
    sets: dict[str, Given] = {}
    if apart.any():
        middle = (features[one[apart]] + features[other[apart]]) / 2
        between = _split(middle, (logits[one[apart]] + logits[other[apart]]) / 2)
        sets[MIDPOINTS] = train, validation, between, head
    columns = [features[generator.permutation(len(features)), place] for place in range(features.shape[1])]
    shuffled = torch.stack(columns, dim=1)
    sets[SHUFFLED] = train, validation, _split(shuffled, head.logits(shuffled)), head
    classes = generator.permutation(head.num_classes)
    for number, part in enumerate(np.array_split(classes, min(PARTS, head.num_classes))):
        kept = np.setdiff1d(classes, part)
        out = np.isin(validation.labels.numpy(), part)
        if len(kept) < 2 or not out.any() or out.all():
            continue
        smaller = LinearHead(head.weight[kept], head.bias[kept], head.network, head.architecture)
        pseudo = _split(features[out], logits[out][:, kept])
        rest = [_without(split, part, kept) for split in (train, validation)]
        sets[f"{HELD_OUT} {number + 1}"] = rest[0], rest[1], pseudo, smaller
    return sets


def _split(features: torch.Tensor, logits: torch.Tensor) -> FeatureSplit:
    return FeatureSplit.of(features, logits, torch.full((len(features),), -1))


def _without(split: FeatureSplit, out: np.ndarray, kept: np.ndarray) -> FeatureSplit:
    """The samples of the classes ``kept``, numbered anew, with their logits alone."""
    labels = split.labels.numpy()
    rows = torch.from_numpy(np.flatnonzero(~np.isin(labels, out)))
    renamed = torch.from_numpy(np.searchsorted(kept, split.labels[rows].numpy()))
    return FeatureSplit.of(split.features[rows], split.logits[rows][:, kept], renamed)


def statistics_of(split: FeatureSplit, num_classes: int, unit: bool = False) -> ClassStatistics:
    """ClassStatistics of stored features, or of their `unit_rows`."""
    statistics = ClassStatistics(num_classes, split.num_features)
    for chunk in split.chunks():
        statistics.update(unit_rows(chunk.features) if unit else chunk.features, chunk.labels)
    return statistics


def _auroc(
    detector: Detector, train: FeatureSplit, known: FeatureSplit, pseudo: FeatureSplit, head: LinearHead
) -> float:
    fits_on, splits = detector.fits_on, {TRAIN: train, VALIDATION: known}
    statistics = statistics_of(train, head.num_classes) if fits_on is FitsOn.STATISTICS else None
    unit = statistics_of(train, head.num_classes, unit=True) if fits_on is FitsOn.UNIT_STATISTICS else None
    fitted = fit(detector.clone(), FeatureBank(head, splits, statistics, unit_statistics=unit))
    scores = [fitted.score(split.features, split.logits).double().numpy() for split in (known, pseudo)]
    forget_scored(fitted)
    if not all(np.isfinite(each).all() for each in scores):
        raise PluginError("gives scores that are no numbers")
    return auroc(*scores)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"
