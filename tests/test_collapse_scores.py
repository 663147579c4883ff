"""The scores nc1 to nc5 where the contract's balanced toy set does not reach: imbalance, missing classes, extremes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import twins

from nci_plugin.checks import PluginError
from nci_plugin.collapse import nearest_centre
from nci_plugin.detectors import registry
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import auroc
from nci_plugin.networks.head import LinearHead

SCORES = ("nc1", "nc2", "nc3", "nc4", "nc5")
COUNTS, WIDTH = torch.tensor([60, 30, 8]), 6


class Imbalanced:
    """Three classes of 60, 30 and 8 samples, ``ratio`` away from the origin; `test` are rows anywhere among them."""

    def __init__(self, ratio: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.repeat_interleave(torch.arange(3), COUNTS)
        centres = 3 * torch.randn(3, WIDTH, generator=generator, dtype=torch.float64) + ratio
        spread = torch.rand(WIDTH, generator=generator, dtype=torch.float64) + 0.1
        noise = torch.randn(len(self.labels), WIDTH, generator=generator, dtype=torch.float64)
        self.train = (centres[self.labels] + spread * noise).float()
        self.test = (3 * torch.randn(50, WIDTH, generator=generator, dtype=torch.float64) + ratio).float()
        self.head = LinearHead(torch.randn(3, WIDTH, generator=generator), torch.tensor([0.5, 0.0, -0.5]))
        self.statistics = ClassStatistics(3, WIDTH).update(self.train, self.labels)

    def score(self, name: str, features: torch.Tensor) -> torch.Tensor:
        return registry.create(name).fit(self.statistics, self.head).score(features, self.head.logits(features))


@pytest.mark.parametrize("ratio", [0.0, 1e4])
@pytest.mark.parametrize("name", SCORES[:4])
def test_imbalanced_classes_far_from_the_origin(name, ratio):
    """Each class mean counts once in mu_G, each sample once in Sigma_W, and float32 loses nothing."""
    data = Imbalanced(ratio)
    h, z, train = (t.double().numpy() for t in (data.test, data.head.logits(data.test), data.train))
    expected = getattr(twins, name)(h, z, train, (data.head.weight.double().numpy(), None), data.labels.numpy())
    np.testing.assert_allclose(data.score(name, data.test).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_nc5_is_neco():
    data = Imbalanced()
    assert torch.equal(data.score("nc5", data.test), data.score("neco", data.test))
    assert issubclass(registry.detector_class("nc5"), registry.detector_class("neco"))


def test_the_sign_of_nc4_is_the_agreement_of_nc4():
    data = Imbalanced()
    split = FeatureSplit.of(data.test, data.head.logits(data.test), torch.zeros(50))
    agrees = data.score("nc4", data.test) >= 0
    assert 0 < agrees.double().mean() < 1
    assert agrees.double().mean() == nearest_centre(split, data.statistics).agreement


def test_scores_at_the_means():
    data = Imbalanced()
    means = data.statistics.means
    logits = torch.eye(3, dtype=torch.float64)  # each mean is put into its own class

    def score(name, features):
        return registry.create(name).fit(data.statistics, data.head).score(features, logits[: len(features)])

    assert score("nc1", means).tolist() == [0, 0, 0]
    torch.testing.assert_close(score("nc2", means), torch.ones(3).double())
    assert (score("nc4", means) > 0).all()
    centre = means.mean(0, keepdim=True)
    assert score("nc2", centre).item() == score("nc3", centre).item() == 0


def test_nc2_is_zero_across_and_one_inside_the_span():
    means = torch.eye(5, dtype=torch.float64)[:3]
    detector = registry.create("nc2").fit(
        ClassStatistics(3, 5).update(means, torch.arange(3)), LinearHead(means.float(), torch.zeros(3))
    )
    centre = means.mean(0)
    across = torch.tensor([[1.0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).double()
    rows = centre + torch.cat([across, means - centre, across[:1] + 3**0.5 * (means[:1] - means[1:2]) / 2**0.5])
    expected = torch.tensor([0, 0, 1, 1, 1, 0.5**0.5], dtype=torch.float64)
    torch.testing.assert_close(detector.score(rows, rows @ means.T), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["nc1", "nc4"])
def test_the_predicted_class_is_one_with_training_samples(name):
    """The head has a class that never came, and likes it best; the answers are those of the classes that did."""
    data = Imbalanced()
    place = torch.tensor([0, 1, 3])
    weight = torch.zeros(4, WIDTH).index_copy(0, place, data.head.weight)
    head = LinearHead(weight, torch.tensor([0.5, 0, 1e6, -0.5]))
    statistics = ClassStatistics(4, WIDTH).update(data.train, place[data.labels])
    got = registry.create(name).fit(statistics, head).score(data.test, head.logits(data.test))
    torch.testing.assert_close(got, data.score(name, data.test))


@pytest.mark.parametrize("name", SCORES)
def test_scores_of_extreme_features_are_finite(name):
    data = Imbalanced()
    extreme = torch.stack([torch.full((WIDTH,), value) for value in (3e38, -3e38, 1e-38, 0.0)])
    logits = torch.zeros(4, 3)
    if name != "nc5":  # in float32, as NECO is
        assert torch.isfinite(registry.create(name).fit(data.statistics, data.head).score(extreme, logits)).all()
    single = ClassStatistics(3, WIDTH).update(data.train[::30], data.labels[::30])
    assert torch.isfinite(registry.create(name).fit(single, data.head).score(data.test, logits[:1].expand(50, 3))).all()


def test_nc1_leaves_out_directions_without_variance():
    data = Imbalanced()
    dead = torch.full((len(data.train), 1), 0.1)  # a unit that always answers the same
    statistics = ClassStatistics(3, WIDTH + 1).update(torch.cat([data.train, dead], 1), data.labels)
    head = LinearHead(torch.cat([data.head.weight, torch.zeros(3, 1)], 1), data.head.bias)
    rows = torch.cat([data.test, torch.full((50, 1), 7.0)], 1)
    got = registry.create("nc1").fit(statistics, head).score(rows, data.head.logits(data.test))
    torch.testing.assert_close(got, data.score("nc1", data.test))


def test_training_sets_without_a_score_are_refused():
    eye = torch.eye(4)
    head = LinearHead(eye, torch.zeros(4))

    def refused(name, features, labels, reason):
        with pytest.raises(PluginError, match=reason):
            registry.create(name).fit(ClassStatistics(4, 4).update(features, labels), head)

    one_class = torch.zeros(4, dtype=torch.long)
    refused("nc1", eye, torch.arange(4), "needs a class of two samples")
    refused("nc1", eye.repeat(2, 1), torch.arange(4).repeat(2), "the features do not vary within")
    refused("nc2", eye, one_class, "the class means are all equal")
    refused("nc4", eye, one_class, "'nc4': needs training samples of two classes, got one")
    corners = torch.tensor([[1.0, 0], [0, 1], [-1, -1]])
    statistics = ClassStatistics(3, 2).update(corners, torch.arange(3))
    with pytest.raises(PluginError, match="'nc2': the class means span all 2 features"):
        registry.create("nc2").fit(statistics, LinearHead(corners, torch.zeros(3)))


def test_they_separate_on_the_golden_features(golden):
    """On real features each finds the far set; nc1 does nearly what OpenOOD's Mahalanobis distance does."""
    train = golden.features("train")
    statistics = ClassStatistics(6, 48).update(train.features, train.labels)
    areas = {}
    for name in SCORES:
        detector = registry.create(name).fit(statistics, golden.head)
        inside, far = (
            detector.score(rows, golden.head.logits(rows)).numpy()
            for rows in (golden.tensor("features/test"), golden.tensor("features/far"))
        )
        areas[name] = auroc(inside, far)
    assert areas["nc1"] == pytest.approx(golden.tables["mds"]["ood"]["far"]["AUROC"] / 100, abs=1e-3)
    assert all(area > 0.75 for area in areas.values()), areas
