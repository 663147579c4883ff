"""Every detector on training sets that leave it nothing to learn, and on features of any scale: right, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from degenerate import BENCHMARK, CASES, Made, made, scores, setup, three_copies_of_one_image_a_class
from scipy.stats import spearmanr

from nci_plugin import config
from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.evaluation.contestant import check_ranking
from nci_plugin.metrics import auroc

ALL = config.detector_names()
LAST_BIT = 1.2e-7


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


@pytest.mark.parametrize("name", registry.names())
def test_an_image_that_no_unit_answers_to_has_a_score(name: str) -> None:
    """After a ReLU its feature is 0, and one such image must not cost an evaluation all others."""
    network = made()
    network.far[0] = 0
    assert np.isfinite(scores(name, network.bank())).all()


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
