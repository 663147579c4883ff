"""Networks trained on long-tailed digits move as theory says: minority collapse and the general orthogonal frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nci_plugin.benchmarks import digits
from nci_plugin.collapse import CollapseMetrics, measure
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.resnet import ResNet18_32x32
from nci_plugin.training.train import Recipe, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

IMBALANCES = (1, 10, 100)  # largest over smallest class
SEEDS = (0, 1)


def trained(imbalance: int, seed: int) -> CollapseMetrics:
    """A quarter as wide a network as that of the benchmark, trained by its recipe on its long-tailed list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "IMBALANCE", float(imbalance))
        items = digits._long_tailed(digits._splits()["train"])
    pixels = torch.from_numpy(np.stack([pixels for _, _, pixels in items])).float() / 127.5 - 1
    images, labels = pixels[:, None].repeat(1, 3, 1, 1), torch.tensor([label for _, label, _ in items])
    network, _ = train(lambda: ResNet18_32x32(digits.NUM_CLASSES, width=4), images, labels, Recipe(), seed)
    cut = Cut.of(network, images[:8])
    with torch.no_grad():
        features, _ = cut(images)
    return measure(ClassStatistics(digits.NUM_CLASSES, features.shape[1]).update(features, labels), cut.head)


@pytest.fixture(scope="module")
def by_imbalance() -> dict[int, list[CollapseMetrics]]:
    return {imbalance: [trained(imbalance, seed) for seed in SEEDS] for imbalance in IMBALANCES}


def test_weights_of_minority_classes_merge(by_imbalance):
    """Fang et al. 2021: the angle between them shrinks as the imbalance grows, until they are one."""
    ten, hundred = (np.mean([each.minority_cosine_weights for each in by_imbalance[each]]) for each in (10, 100))
    assert {each.minority_classes for each in (*by_imbalance[10], *by_imbalance[100])} == {(3, 4, 5)}
    assert hundred > ten + 0.1
    for name in ("smallest_angle", "effective_rank"):
        of_weights, of_means = (
            [np.mean([getattr(each, f"{name}_{of}") for each in group]) for group in by_imbalance.values()]
            for of in ("weights", "means")
        )
        assert of_weights[0] > of_weights[1] > of_weights[2], name
        assert of_means[0] > max(of_means[1:]), name


def test_lengths_follow_the_class_sizes(by_imbalance):
    """Dang et al. 2023: larger classes have longer weights and means; between equal classes there is no slope."""
    for imbalance in (10, 100):
        for field in ("gof_slope_weights", "gof_slope_means"):
            assert np.mean([getattr(each, field) for each in by_imbalance[imbalance]]) > 0, (imbalance, field)
    assert all(each.gof_slope_weights is None for each in by_imbalance[1])
    assert all(each.imbalance_ratio == pytest.approx(1, abs=0.02) for each in by_imbalance[1])
