"""Training sets that leave a detector little or nothing to learn, as banks, and its scores on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from nci_plugin import config
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.networks.head import LinearHead

BENCHMARK = Benchmark("made", 5, {"id/test": "made"})


@dataclass
class Made:
    """Features of a network: training features (n, P) with labels, ID and OOD test features, and its head."""

    train: torch.Tensor
    labels: torch.Tensor
    test: torch.Tensor
    far: torch.Tensor
    head: LinearHead

    def bank(self, test: torch.Tensor | None = None, far: torch.Tensor | None = None) -> FeatureBank:
        shape = self.head.num_classes, self.head.num_features
        return FeatureBank(
            self.head,
            {
                "id/train": self._split(self.train, self.labels),
                "id/val": self._split(self.test),
                "id/test": self._split(self.test if test is None else test),
                "far/far": self._split(self.far if far is None else far),
            },
            ClassStatistics(*shape).update(self.train, self.labels),
            unit_statistics=ClassStatistics(*shape).update(unit_rows(self.train), self.labels),
        )

    def _split(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> FeatureSplit:
        labels = torch.full((len(features),), -1) if labels is None else labels
        return FeatureSplit.of(features, self.head.logits(features), labels)

    def scaled(self, factor: float) -> Made:
        """The same network with features ``factor`` times as long and weights as much shorter: the same logits."""
        head = LinearHead((self.head.weight.double() / factor).float(), self.head.bias)
        train, test, far = ((rows.double() * factor).float() for rows in (self.train, self.test, self.far))
        return Made(train, self.labels, test, far, head)


def made(num_classes: int = 5, width: int = 32, per_class: int = 40) -> Made:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_classes, width, generator=generator) * 2 + 1
    labels = torch.arange(num_classes).repeat_interleave(per_class)

    def rows(centres: torch.Tensor) -> torch.Tensor:
        return (centres + 0.4 * torch.randn(centres.shape, generator=generator)).relu() + 0.01

    head = LinearHead(means - means.mean(dim=0), torch.randn(num_classes, generator=generator) * 0.1, "Net")
    return Made(rows(means[labels]), labels, rows(means[labels]), rows(torch.zeros(len(labels), width)), head)


def one_class() -> Made:
    return made(num_classes=1, per_class=150)


def one_class_of_five() -> Made:
    it = made()
    return Made(it.train[it.labels == 2], it.labels[it.labels == 2], it.test, it.far, it.head)


def one_image_a_class() -> Made:
    return made(num_classes=20, per_class=1)


def three_copies_of_one_image_a_class() -> Made:
    """Their mean, a sum over three, is off by rounding."""
    it = made(per_class=1)
    return Made(it.train.repeat(3, 1), it.labels.repeat(3), it.test.repeat(9, 1), it.far.repeat(9, 1), it.head)


def constant_features() -> Made:
    it = made()
    rows = it.train[:1].expand_as(it.train)
    return Made(rows, it.labels, rows, rows, it.head)


def constant_training_features() -> Made:
    it = made()
    return Made(it.train[:1].expand_as(it.train), it.labels, it.test, it.far, it.head)


def zeros() -> Made:
    it = made()
    return Made(it.train * 0, it.labels, it.test * 0, it.far * 0, it.head)


def zero_training_features() -> Made:
    it = made()
    return Made(it.train * 0, it.labels, it.test, it.far, it.head)


def equal_class_means() -> Made:
    it = made()
    return Made(it.train[it.labels == 0].repeat(5, 1), it.labels, it.test, it.far, it.head)


def features_of_length_one() -> Made:
    it = made()
    return Made(normalize(it.train), it.labels, normalize(it.test), normalize(it.far), it.head)


def features_of_sum_one() -> Made:
    it = made()
    train, test, far = (normalize(rows, p=1) for rows in (it.train, it.test, it.far))
    return Made(train, it.labels, test, far, it.head)


def more_classes_than_features() -> Made:
    return made(num_classes=50, width=8, per_class=10)


def fewer_images_than_features() -> Made:
    return made(width=64, per_class=6)


def means_that_span_all_live_features() -> Made:
    """Four live features and five classes: every feature lies in the span of the means."""
    it = made()
    live = torch.arange(32) < 4
    return Made(it.train * live, it.labels, it.test * live, it.far * live, it.head)


def zero_head() -> Made:
    it = made()
    return Made(it.train, it.labels, it.test, it.far, LinearHead(it.head.weight * 0, it.head.bias))


CASES = {
    case.__name__: case
    for case in (
        one_class,
        one_class_of_five,
        one_image_a_class,
        three_copies_of_one_image_a_class,
        constant_features,
        constant_training_features,
        zeros,
        zero_training_features,
        equal_class_means,
        features_of_length_one,
        features_of_sum_one,
        more_classes_than_features,
        fewer_images_than_features,
        means_that_span_all_live_features,
        zero_head,
    )
}


def setup(name: str) -> DetectorSetup:
    detector = config.load_detector(name).detector
    small = {"k": 3, "K": 3, "d": 4}
    detector.set_hyperparameters(**{key: small[key] for key in detector.hyperparameter_names() if key in small})
    return DetectorSetup(detector)


def scores(name: str, bank: FeatureBank) -> np.ndarray:
    found = setup(name).answer(bank, BENCHMARK, ["id/test", "far/far"]).scores
    return np.concatenate([found["id/test"], found["far/far"]]).astype(float)
