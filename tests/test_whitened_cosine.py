"""The whitened cosines where training says little: absent classes, one image each, K > P; and any unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from degenerate import CASES, Made, made, scores
from scipy.stats import spearmanr

from nci_plugin.detectors.whitened_cosine import class_directions, shrunk_covariance
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import auroc

NAMES = ["whitened_cosine", "whitened_cosine_pp", "nci_gated"]
THIN = ("one_image_a_class", "more_classes_than_features", "fewer_images_than_features")


def signed() -> Made:
    """Features of both signs and of one length, as after a LayerNorm."""
    it = made()

    def normed(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(rows, rows.shape[1:])

    return Made(normed(it.train), it.labels, normed(it.test), normed(it.far), it.head)


def half_of_the_classes() -> Made:
    it = made()
    there = it.labels < 3
    return Made(it.train[there], it.labels[there], it.test, it.far, it.head)


def statistics(network: Made) -> ClassStatistics:
    shape = network.head.num_classes, network.head.num_features
    return ClassStatistics(*shape).update(network.train, network.labels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [*(CASES[name] for name in THIN), signed, half_of_the_classes])
def test_ranks_where_training_says_little(name, case):
    found = scores(name, case().bank())
    half = len(found) // 2
    assert np.isfinite(found).all()
    assert auroc(found[:half], found[half:]) > 0.55


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e-30, 1e-14, 1e-6, 1e6, 1e14, 1e30])
def test_the_unit_of_the_features_does_not_matter(name, factor):
    found, scaled = (scores(name, each.bank()) for each in (made(), made().scaled(factor)))
    assert spearmanr(found, scaled).statistic > 0.9999


def test_without_a_second_sample_it_is_pscores_cosine():
    """The metric is then the identity and the direction w_c."""
    network = CASES["one_image_a_class"]()
    z = network.head.logits(network.test)
    w, centred = network.head.weight[z.argmax(1)], network.test - network.train.mean(0)
    expected = torch.nn.functional.cosine_similarity(w, centred).numpy()
    assert scores("whitened_cosine", network.bank())[: len(z)] == pytest.approx(expected, abs=1e-5)
    assert class_directions(statistics(network), network.head).freedom == 0


def test_many_samples_give_the_means_and_few_the_weights():
    shares = {}
    for per_class in (2, 2000):
        network = made(width=8, per_class=per_class)
        training = statistics(network)
        found = class_directions(training, network.head)
        offsets = training.means - training.global_mean
        shares[per_class] = float((found.directions - offsets).norm() / offsets.norm())
    assert shares[2000] < 0.01 < shares[2]


def test_oas_is_what_scikit_learn_gives():
    covariance = pytest.importorskip("sklearn.covariance")
    rows = torch.randn(40, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, 61)
    expected, _ = covariance.oas(rows.numpy(), assume_centered=True)
    got = shrunk_covariance(rows.T @ rows, len(rows))[0].numpy()
    theirs = np.trace(expected) / 60, expected[0, 1] / (rows.T @ rows)[0, 1].item()
    assert got.trace() / 60 == pytest.approx(theirs[0])
    assert got[0, 1] / (rows.T @ rows)[0, 1].item() == pytest.approx(theirs[1], rel=0.05)  # theirs leaves out the -2/P
