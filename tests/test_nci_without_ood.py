"""NCI with alpha learned from ID data, and NCI+: no OOD image changes a score, and rare classes give finite ones."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from tiny import Tiny

from nci_plugin import evaluate
from nci_plugin.benchmarks.benchmark import Benchmark
from nci_plugin.checks import PluginError
from nci_plugin.detectors import registry
from nci_plugin.detectors.nci_plus import shrunk_means
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

DETECTORS = ["nci_auto", "nci_plus"]


def split(toy, features):
    return FeatureSplit.of(features, toy.head.logits(features), torch.full((len(features),), -1))


def auto(toy, validation):
    detector = registry.create("nci", alpha="auto")
    return detector.fit(toy.statistics, toy.head, split(toy, validation))


# -------------------------------------------------------------------- no OOD image


def test_the_same_without_the_ood_files(tmp_path):
    """The benchmark, and the benchmark without any OOD file but one, since a benchmark must have an OOD set."""
    tiny = Tiny(tmp_path)
    network = tiny.loaded()
    options = {"data_root": tiny.data, "device": "cpu", "progress": False}
    whole = evaluate(network, tiny.yaml, DETECTORS, **options)
    for name in ("oodval", "near", "near2"):
        tiny.list(name).unlink()
        shutil.rmtree(tiny.image(name, 0).parent)
    tiny.list("far").write_text("far/0.png -1\n", encoding="utf-8")
    far = tiny.config["benchmark"]["ood"].pop("far")
    tiny.config["benchmark"]["ood"] = {"far": far}
    tiny.save_config()
    alone = evaluate(network, tiny.yaml, DETECTORS, **options)
    assert not whole.failures
    assert not alone.failures
    for name in DETECTORS:
        for id_split in ("id/test", "csid/csid"):
            np.testing.assert_array_equal(whole.scores[name][id_split], alone.scores[name][id_split])


def test_a_search_is_not_asked_for_and_the_choice_is_recorded(golden):
    results = evaluate(golden.head, golden.benchmark(), ["nci_auto", "nci_plus"], progress=False).results
    chosen = {result.detector: result for result in results}
    (alpha,) = chosen["nci_auto"].hyperparameters.values()
    assert chosen["nci_auto"].chosen_by.startswith(f"alpha = {alpha:.4g}, ")
    again = evaluate(golden.head, golden.benchmark(), registry.create("nci", alpha=alpha), progress=False)
    assert [row.auroc for row in again.results] == [row.auroc for row in results if row.detector == "nci_auto"]
    assert chosen["nci_auto"].chosen_by.endswith("from the ID validation split alone")
    assert chosen["nci_plus"].hyperparameters == {}


def test_no_validation_split_is_an_error(golden):
    features = {name: golden.features(name) for name in ("train", "test", "far")}
    benchmark = Benchmark.from_splits(
        "golden", 6, train=features["train"], test=features["test"], near={}, far={"far": features["far"]}
    )
    found = evaluate(golden.head, benchmark, ["nci_auto", "nci", "nci_plus"], progress=False)
    assert set(found.failures) == {"nci_auto"}
    assert "calibrates on the ID validation split, which is missing; add id/val" in found.failures["nci_auto"]


# -------------------------------------------------------------------- alpha


def test_auto_is_nci_with_the_alpha_that_it_chose(toy):
    detector = auto(toy, toy.test)
    fixed = registry.create("nci", alpha=detector.alpha_).fit(toy.statistics, toy.head)
    logits = toy.head.logits(toy.far)
    assert torch.equal(detector.score(toy.far, logits), fixed.score(toy.far, logits))
    assert auto(toy, toy.test).alpha_ == detector.alpha_


def calibrated(features, weight, predicted):
    head = LinearHead(weight, torch.zeros(len(weight)))
    validation = FeatureSplit.of(features, torch.eye(len(weight))[predicted], predicted)
    training = ClassStatistics(len(weight), features.shape[1]).update(features, predicted)
    return registry.create("nci_auto").fit(training, head, validation)


def test_the_norm_does_not_count_where_p_score_does():
    generator = torch.Generator().manual_seed(0)
    lengths = 10 + torch.rand(300, 1, generator=generator)
    predicted = torch.arange(300) % 3
    axes = torch.eye(3)
    assert calibrated(lengths * axes[predicted], axes, predicted).alpha_ == 0, "midpoints have a lower pScore"


def test_alpha_follows_the_units_of_the_features(toy):
    """Features c times as long and weights 1/c as long are the same network, whose scores are 1/c as large."""
    factor = 8.0
    head = type(toy.head)(toy.head.weight / factor, toy.head.bias)
    statistics = ClassStatistics(head.num_classes, head.num_features).update(toy.train * factor, toy.labels)
    logits = toy.head.logits(toy.test)
    scaled = FeatureSplit.of(toy.test * factor, logits, torch.zeros(len(logits)))
    other = registry.create("nci_auto").fit(statistics, head, scaled)
    torch.testing.assert_close(
        other.score(toy.far * factor, toy.head.logits(toy.far)) * factor,
        auto(toy, toy.test).score(toy.far, toy.head.logits(toy.far)),
    )


def test_a_validation_split_without_a_scale_is_an_error(toy):
    with pytest.raises(PluginError, match="of several classes on which the norm varies"):
        auto(toy, toy.test[:1])
    with pytest.raises(PluginError, match="alpha: must be a finite number, at least 0, got 'Auto'"):
        registry.create("nci", alpha="Auto")


def test_auto_after_a_fit_without_validation_is_an_error(toy):
    detector = registry.create("nci").fit(toy.statistics, toy.head)
    detector.set_hyperparameters(alpha="auto")
    with pytest.raises(PluginError, match="add the split id/val"):
        detector.score(toy.test, toy.head.logits(toy.test))


# -------------------------------------------------------------------- NCI+


def plus(toy, features):
    return registry.create("nci_plus").fit(split(toy, features), toy.head)


def test_shards_do_not_matter(toy):
    shards = [split(toy, rows).shards[0] for rows in toy.train.split(7)]
    pieces = registry.create("nci_plus").fit(FeatureSplit(shards), toy.head)
    logits = toy.head.logits(toy.far)
    torch.testing.assert_close(pieces.score(toy.far, logits), plus(toy, toy.train).score(toy.far, logits))


def test_a_class_never_predicted_has_the_mean_of_all(toy):
    detector = plus(toy, toy.train[toy.head.logits(toy.train).argmax(dim=1) > 0])
    never, *others = detector.centres_[:, 0]
    assert min(others) <= never <= max(others)
    assert torch.isfinite(detector.score(toy.test, toy.head.logits(toy.test))).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_few_training_samples_give_finite_scores(toy, rows):
    assert torch.isfinite(plus(toy, toy.train[:rows]).score(toy.test, toy.head.logits(toy.test))).all()


def test_the_norm_counts_where_it_is_low(toy):
    """Features on one ray from mu_G have one pScore: a longer one scores higher, but only up to a bound."""
    detector = plus(toy, toy.train)
    ray = toy.train[0] - detector.mean_
    features = torch.stack([detector.mean_ + factor * ray for factor in (1.0, 2.0, 1e3, 1e6)]).float()
    scores = detector.score(features, toy.head.logits(features))
    assert (scores.diff()[:2] > 0).all()
    assert scores[2] == pytest.approx(float(scores[3]), abs=1e-3)


def shrunk(values, groups, num_groups):
    terms = ClassStatistics(num_groups, 1).update(torch.tensor(values)[:, None], torch.tensor(groups))
    return terms, shrunk_means(terms, terms.within_scatter.diagonal() / terms.num_samples)[:, 0]


def test_means_of_noise_are_one_mean_and_means_without_noise_their_own():
    terms, means = shrunk([0.0, 2.0, 0.5, 1.5, 1.0], [0, 0, 1, 1, 1], 3)
    torch.testing.assert_close(means, terms.global_mean.expand(3))
    terms, means = shrunk([0.0, 0.0, 4.0], [0, 0, 2], 3)
    torch.testing.assert_close(means, torch.tensor([0.0, 4.0 / 3, 4.0]).double())


def test_a_rare_class_is_shrunk_more():
    values = [-10.0, -8.0, *[0.0, 2.0] * 20, 9.0]
    terms, means = shrunk(values, [0, 0, *[1] * 40, 2], 3)
    kept = (means - terms.global_mean) / (terms.means - terms.global_mean)[:, 0]
    assert 0 < kept[2] < kept[0] < kept[1] < 1


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        (["ood/val"], "no split 'ood/val' to search on"),
        (["id/val"], "no split 'id/val' to search on"),
        (["id/val", "ood/val"], "no validation splits to search on"),
    ],
)
def test_a_search_that_lacks_a_split_says_which(golden, left_out, words):
    benchmark = golden.benchmark()
    splits = {name: split for name, split in benchmark.splits.items() if name not in left_out}
    setups = ["nci", "msp"]
    results = evaluate(golden.head, dataclasses.replace(benchmark, splits=splits), setups, progress=False).results
    assert {row.chosen_by for row in results if row.detector == "nci"} == {f"fixed (the benchmark has {words})"}
    assert {row.chosen_by for row in results if row.detector == "msp"} == {"fixed"}


def test_signed_features_do_not_make_the_norm_decisive():
    """Midpoints of features of both signs are shorter, whatever their class: that once made alpha 0.3 and more."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 64, generator=generator)
    labels = torch.arange(10).repeat_interleave(200)
    features = torch.nn.functional.layer_norm(means[labels] + 2 * torch.randn(2000, 64, generator=generator), (64,))
    weight = means - means.mean(dim=0)
    detector = calibrated(features, weight, (features @ weight.T).argmax(dim=1))
    p_score, norm = detector._terms(features, features @ weight.T).std(dim=0)
    assert detector.alpha_ * norm < 0.2 * p_score
