"""Every detector on training sets that leave it nothing to learn, and on features of any scale: right, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import normalize

from nci_plugin import config
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.evaluation.contestant import check_ranking
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics, unit_rows
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

ALL = config.detector_names()
BENCHMARK = Benchmark("made", 5, {"id/test": "made"})
LAST_BIT = 1.2e-7


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


def nudged(rows: torch.Tensor) -> torch.Tensor:
    """Every number moved by its last bit, up or down."""
    signs = torch.randint(0, 2, rows.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return rows * (1 + LAST_BIT * signs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ALL)
def test_no_detector_ranks_rounding(name: str, case: str) -> None:
    """A ranking that the last bits of the features turn over is none; a score that is the same for all is a tie."""
    network = CASES[case]()
    try:
        found = scores(name, network.bank())
    except PluginError:
        return
    assert np.isfinite(found).all()
    if found.min() < found.max():
        bank = network.bank(nudged(network.test), nudged(network.far))
        again = setup(name).answer(bank, BENCHMARK, ["id/test", "far/far"])
        moved = np.concatenate([again.scores["id/test"], again.scores["far/far"]])
        assert spearmanr(found, moved).statistic > 0.95


SOUND = ("one_class", "one_image_a_class", "more_classes_than_features", "fewer_images_than_features")


@pytest.mark.parametrize("case", SOUND)
@pytest.mark.parametrize("name", ["knn", "feature_norm", "knn_l1", "nci_plus"])
def test_what_has_an_answer_is_not_refused(name: str, case: str) -> None:
    assert len(np.unique(scores(name, CASES[case]().bank()))) > 10


@pytest.mark.parametrize("case", ["one_class", "one_class_of_five", "equal_class_means", "constant_training_features"])
@pytest.mark.parametrize("name", ["rmds_pp", "pytorch_ood:rmd"])
def test_a_relative_distance_is_zero_where_all_classes_have_one_mean(name: str, case: str) -> None:
    """Both of its distances are then the same; in two sums they differ by rounding, which ranked ID last (AUROC 10)."""
    if name == "rmds_pp" and case == "constant_training_features":  # there is not even a distance
        with pytest.raises(PluginError, match="do not vary within classes"):
            scores(name, CASES[case]().bank())
        return
    found = scores(name, CASES[case]().bank())
    assert not found.any()
    assert auroc(found[:100], found[100:]) == 0.5


def test_means_of_rounding_are_no_variance() -> None:
    with pytest.raises(PluginError, match="do not vary within classes"):
        scores("mds_pp", three_copies_of_one_image_a_class().bank())


def test_one_direction_is_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.rand(1, 32, generator=generator) + 0.1
    train, test, far = ((torch.rand(200, 1, generator=generator) + 0.1) * direction for _ in range(3))
    network = Made(train, made().labels, test, far, made().head)
    for name in ("knn", "pytorch_ood:knn", "mds_pp", "rmds_pp"):
        with pytest.raises(PluginError, match="same score but for rounding|same direction"):
            scores(name, network.bank())


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e-14, 1e-6, 1e6, 1e14, 1e18, 1e30])
@pytest.mark.parametrize(
    "name", ["knn", "mds_pp", "rmds_pp", "pscore", "nci_auto", "nci_plus", "nc1", "nc2", "nc3", "nc4", "ora", "msp"]
)
def test_the_length_of_features_does_not_matter(name: str, factor: float) -> None:
    """With weights as much shorter: the logits are the same, and the definitions do not know the unit of features."""
    network = made()
    found, scaled = (scores(name, each.bank()) for each in (network, network.scaled(factor)))
    areas = [auroc(each[:200], each[200:]) for each in (found, scaled)]
    assert areas[1] == pytest.approx(areas[0], abs=1e-3)
    assert spearmanr(found, scaled).statistic > 0.9999


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_that_differ_by_rounding_are_refused(dtype: type) -> None:
    def two(one: float, other: float) -> dict[str, np.ndarray]:
        return {"id/test": np.array([one, one], dtype), "far/far": np.array([other], dtype), "near/none": np.zeros(0)}

    with pytest.raises(PluginError, match=r"'d': gave every sample the same score but for rounding, with \{'a': 1\}"):
        check_ranking(two(-3, -3.000002), "d", {"a": 1})
    check_ranking(two(3, 3), "d", {})  # an exact tie
    check_ranking(two(3, 3.00001), "d", {})
    small = two(1e-7, 2e-7)
    check_ranking(small, "d", {})
    with pytest.raises(PluginError, match="but for rounding"):
        check_ranking(small, "d", {}, magnitude=1.0)
    assert registry.detector_class("knn").magnitude == 1.0
