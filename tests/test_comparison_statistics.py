"""Tests, adjustments and intervals of comparisons: against naive forms, known answers and simulations."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from nci_plugin.checks import PluginError
from nci_plugin.comparison import bootstrap, networks
from nci_plugin.comparison.bootstrap import Pairing
from nci_plugin.comparison.compare import check, compare, values
from nci_plugin.comparison.delong import components, covariance, mean_of
from nci_plugin.comparison.multiple import cliques, holm, step_down_max_t
from nci_plugin.comparison.over_benchmarks import friedman, over_benchmarks
from nci_plugin.comparison.records import Choice
from nci_plugin.comparison.samples import Samples
from nci_plugin.comparison.tables import MOST_TIES, comparison_text, over_benchmarks_text, tie_letters
from nci_plugin.comparison.worst import by_predicted_class, worst
from nci_plugin.metrics import measure
from nci_plugin.metrics.columns import METRIC_COLUMNS, auroc
from nci_plugin.metrics.counts import SortedScores

METRIC_NAMES = ("fpr95", "fpr_at_id_tpr95", "aupr_out", "aurc", "augrc", "autc")


def made_up(generator, sizes, shifts, network_shifts=(0.0,), correlation=0.7, csid=False, digits=None):
    """Scores of a detector for each shift of the ID mean; those of an image are correlated over detectors."""
    splits = {"id/test": sizes[0], "near/one": sizes[1], **({"csid/one": sizes[0]} if csid else {})}
    image = {split: generator.normal(size=size) for split, size in splits.items()}
    scores = {}
    for place, shift in enumerate(shifts):
        scores[f"d{place}"] = [
            {
                split: np.round(
                    np.sqrt(correlation) * image[split]
                    + np.sqrt(1 - correlation) * generator.normal(size=size)
                    + (shift + network) * (split != "near/one"),
                    digits if digits is not None else 12,
                )
                for split, size in splits.items()
            }
            for network in network_shifts
        ]
    labels = {split: np.zeros(size, dtype=int) for split, size in splits.items()}
    predictions = [
        {split: (generator.random(size) < 0.1).astype(int) for split, size in splits.items()} for _ in network_shifts
    ]
    seeds = tuple(f"s{place}" for place in range(len(network_shifts))) if len(network_shifts) > 1 else ("",)
    return Samples("made up", seeds, scores, predictions, [labels] * len(network_shifts))


# ----------------------------------------------------------------- DeLong


def naive_delong(id_scores, ood_scores):
    """DeLong, DeLong & Clarke-Pearson 1988 from all pairs: AUROCs and covariance of detectors."""
    wins = (id_scores[:, :, None] > ood_scores[:, None, :]) + 0.5 * (id_scores[:, :, None] == ood_scores[:, None, :])
    of_id, of_ood = wins.mean(axis=2), wins.mean(axis=1)
    return wins.mean(axis=(1, 2)), np.cov(of_id) / of_id.shape[1] + np.cov(of_ood) / of_ood.shape[1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 8]), st.integers(2, 30), st.integers(2, 30))
def test_delong_against_all_pairs(seed, digits, n_id, n_ood):
    generator = np.random.default_rng(seed)
    id_scores, ood_scores = (generator.normal(m, 1, (3, n)).round(digits) for m, n in ((0.5, n_id), (0.0, n_ood)))
    parts = components(id_scores, ood_scores)
    aurocs, expected = naive_delong(id_scores, ood_scores)
    np.testing.assert_allclose(parts.aurocs, aurocs, atol=1e-12)
    np.testing.assert_allclose(parts.ood.mean(axis=1), aurocs, atol=1e-12)
    np.testing.assert_allclose(covariance([parts], [n_id]), expected, atol=1e-12)


def test_delong_agrees_with_the_bootstrap():
    """Of one value and of a difference, over one set, over two sets with shared ID samples, and over ID strata."""
    generator = np.random.default_rng(0)
    sizes = {"id/test": 300, "csid/one": 200, "near/one": 250, "near/two": 150}
    image = {split: generator.normal(size=size) for split, size in sizes.items()}
    scores = [
        {
            split: image[split] + generator.normal(size=size) + {"id": 1.5, "csid": 0.8}.get(split.split("/")[0], 0)
            for split, size in sizes.items()
        }
        for _ in range(2)
    ]
    draws = bootstrap.draw(sizes, 3000, seed=1)
    for id_splits in (("id/test",), ("id/test", "csid/one")):
        strata = [sizes[split] for split in id_splits]
        for ood_splits in (("near/one",), ("near/one", "near/two")):
            parts, replicates = [], []
            for ood_split in ood_splits:
                id_scores = [np.concatenate([own[split] for split in id_splits]) for own in scores]
                parts.append(components(np.stack(id_scores), np.stack([own[ood_split] for own in scores])))
                pairing = Pairing(id_splits, ood_split)
                replicates.append(
                    [
                        bootstrap.replicate(SortedScores(ids, own[ood_split]), pairing, draws, auroc)
                        for ids, own in zip(id_scores, scores)
                    ]
                )
            drawn = np.mean(replicates, axis=0)
            exact = covariance(parts, strata)
            for contrast in np.array([[1, 0], [0, 1], [1, -1]]):
                by_bootstrap = np.std(contrast @ drawn, ddof=1)
                assert by_bootstrap == pytest.approx(np.sqrt(contrast @ exact @ contrast), rel=0.06)


def test_mean_of_networks_is_delong_of_the_mean():
    """AUROCs of two networks on the same images: the variance of their mean from the joint covariance of both."""
    generator = np.random.default_rng(2)
    id_scores, ood_scores = generator.normal(1, 1, (2, 60)), generator.normal(0, 1, (2, 50))
    both = covariance([components(id_scores, ood_scores)], [60])
    each = [components(id_scores[[place]], ood_scores[[place]]) for place in range(2)]
    np.testing.assert_allclose(covariance([mean_of(each)], [60])[0, 0], both.mean())


# ------------------------------------------------------- many comparisons


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_by_its_definition(p_values):
    """A hypothesis is rejected at a level if it and all with smaller p pass level / (how many are left)."""
    adjusted = holm(np.array(p_values))
    order = np.argsort(p_values, kind="stable")
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for place, index in enumerate(order):
            if p_values[index] * (len(p_values) - place) > level:
                break
            rejected.add(index)
        assert {index for index in range(len(p_values)) if adjusted[index] <= level} == rejected


def test_what_has_no_p_value_counts_in_the_family():
    np.testing.assert_allclose(holm(np.array([0.01, np.nan, 0.02])), [0.03, np.nan, 0.04])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_max_t_by_its_definition(seed, count):
    generator = np.random.default_rng(seed)
    statistics, replicates = np.abs(generator.normal(0, 2, count)), np.abs(generator.normal(0, 1, (99, count)))
    order = sorted(range(count), key=lambda index: -statistics[index])
    expected, largest_before = np.empty(count), 0.0
    for place, index in enumerate(order):
        exceeding = sum(max(row[other] for other in order[place:]) >= statistics[index] for row in replicates)
        largest_before = max(largest_before, (1 + exceeding) / 100)
        expected[index] = largest_before
    np.testing.assert_allclose(step_down_max_t(statistics, replicates), expected)


def family_wise_errors(metric, studies, size):
    """In how many studies without any difference between four detectors one of the six pairs is found to differ."""
    found = 0
    for study in range(studies):
        samples = made_up(np.random.default_rng([5, study]), (size, size), [1.0] * 4)
        made = compare(samples, Choice(metric, seed=study))
        found += min(each.adjusted for each in made.differences) < 0.05
    return found


def test_few_false_findings_without_any_difference():
    """5 % of 100 studies; 11 or more have a chance of 1 % at a true rate of 5 %."""
    assert family_wise_errors("auroc", 100, 100) <= 10
    assert family_wise_errors("fpr_at_id_tpr95", 40, 100) <= 6


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "fpr95", "augrc"])
def test_family_wise_error_rate(metric):
    """At most 5 % in 400 studies, plus 2.6 standard errors; not 0 either."""
    found = family_wise_errors(metric, 400, 150)
    assert 3 <= found <= 400 * (0.05 + 2.6 * np.sqrt(0.05 * 0.95 / 400))


# --------------------------------------------------------------- coverage


def truth(metric, shift, wrong_share):
    """The metric of an endless sample, as 100,000 normal quantiles of each side give it to about 0.02 points."""
    quantiles = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    wrong = np.random.default_rng(0).random(100_000) < wrong_share
    second = quantiles + shift if metric == "csid_rejection" else quantiles  # shifted samples are as the clean ones
    return measure(metric, quantiles + shift, second, wrong)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "size"),
    [
        *(("auroc", 400), ("aupr_in", 400), ("aupr_out", 400), ("aurc", 400), ("augrc", 400), ("autc", 400)),
        *(("fpr95", 1500), ("fpr_at_id_tpr95", 1500), ("csid_rejection", 1500), ("csid_auroc", 400)),
    ],
)
def test_coverage_of_intervals(metric, size):
    """Nominal 95 % intervals of a value and of a difference hold the truth in 93 to 97 % of 2,000 studies.

    Each has ``size`` ID and as many OOD images, two detectors whose scores are correlated, and one network. FPR@95
    needs more images, as it hangs on 5 % of them; 500 replicates are fewer than a comparison makes. The truth of AUTC
    is that on the scale of each study's scores, of which its interval is.
    """
    shifts, studies = (1.5, 1.0), 2000
    expected = [truth(metric, shift, 0.1) for shift in shifts]
    held = np.zeros(2)
    for study in range(studies):
        samples = made_up(np.random.default_rng([7, study]), (size, size), shifts, csid=metric.startswith("csid"))
        if metric == "autc":
            ranges = [np.ptp(np.concatenate(list(by_network[0].values()))) for by_network in samples.scores.values()]
            expected = [100 * (1 - shift / each) / 2 for shift, each in zip(shifts, ranges)]
        made = compare(samples, Choice(metric, seed=study, replicates=500))
        value, difference = made.values[0], made.differences[0]
        held += [
            value.low <= expected[0] <= value.high,
            difference.low <= expected[0] - expected[1] <= difference.high,
        ]
    assert ((held / studies >= 0.93) & (held / studies <= 0.97)).all(), held / studies


@pytest.mark.slow
def test_coverage_of_aurocs_near_100():
    """Those of 95 % and of 98.5 %, of 200 images a side, whose errors are skewed, and their difference."""
    aurocs, studies, held = np.array([0.985, 0.95]), 2000, np.zeros(3)
    for study in range(studies):
        samples = made_up(np.random.default_rng([17, study]), (200, 200), np.sqrt(2) * norm.ppf(aurocs))
        made = compare(samples, Choice())
        (difference,) = made.differences
        truths = 100 * aurocs[0], 100 * aurocs[1], 100 * (aurocs[0] - aurocs[1])
        held += [each.low <= true <= each.high for each, true in zip([*made.values, difference], truths)]
    assert ((held / studies >= 0.93) & (held / studies <= 0.97)).all(), held / studies


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "fpr_at_id_tpr95", "augrc"])
def test_coverage_over_two_sets_and_shifted_id(metric):
    """Clean and shifted ID images against each of two OOD sets, which share them; the mean of both, one network."""
    means, sizes = {"id/test": 1.5, "csid/one": 1.0, "near/one": 0.0, "near/two": 0.3}, [600, 400, 300, 500]
    places = {split: (np.arange(100 * n) + 0.5) / (100 * n) for split, n in zip(means, sizes)}
    quantiles = {split: norm.ppf(places[split]) + mean for split, mean in means.items()}
    id_scores = np.concatenate([quantiles["id/test"], quantiles["csid/one"]])
    wrong = np.random.default_rng(0).random(len(id_scores)) < 0.1
    expected = np.mean([measure(metric, id_scores, quantiles[split], wrong) for split in ("near/one", "near/two")])
    studies, held = 2000, 0
    for study in range(studies):
        generator = np.random.default_rng([19, study])
        scores = {split: generator.normal(mean, 1, n) for (split, mean), n in zip(means.items(), sizes)}
        labels = {split: np.zeros(n, dtype=int) for split, n in zip(means, sizes)}
        predictions = {split: (generator.random(n) < 0.1).astype(int) for split, n in zip(means, sizes)}
        samples = Samples("made up", ("",), {"d0": [scores]}, [predictions], [labels])
        (value, *_) = values(samples, Choice(metric, "fsood", seed=study, replicates=500), intervals=True)
        held += value.low <= expected <= value.high
    assert 0.93 <= held / studies <= 0.97, held / studies


@pytest.mark.slow
def test_coverage_of_worst_groups():
    """All of 12 groups of about 50 images a side at once, AUROC 90 %: so the one that is worst by chance, too."""
    studies, classes, held, worst_held = 2000, 12, 0, 0
    for study in range(studies):
        generator = np.random.default_rng([23, study])
        id_classes, ood_classes = np.arange(660) % classes, np.arange(600) % classes
        id_scores = generator.normal(np.sqrt(2) * norm.ppf(0.9), 1, 660)
        groups = by_predicted_class(id_scores, id_classes, generator.normal(0, 1, 600), ood_classes)
        bounds = [each.low <= 90 <= each.high for each in worst(groups, classes)]
        held, worst_held = held + all(bounds), worst_held + bounds[0]
    assert 0.93 <= held / studies <= 0.97, held / studies
    assert worst_held / studies >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "between", "shift"),
    [("auroc", 0.05, 1.2), ("auroc", 0.3, 1.2), ("auroc", 1.0, 1.2), ("auroc", 0.3, 2.5), ("augrc", 0.3, 1.2)],
)
def test_coverage_over_three_networks(metric, between, shift):
    """As above for the mean over networks, which differ little or much; 3 networks and 200 images of a side."""
    studies, held = 2000, 0
    generator = np.random.default_rng(11)
    offsets = between * norm.ppf((np.arange(50) + 0.5) / 50)
    expected = np.mean([truth(metric, shift + offset, 0.1) for offset in offsets])
    for study in range(studies):
        shifts = generator.normal(0, between, 3)
        samples = made_up(np.random.default_rng([13, study]), (200, 200), (shift, shift), shifts)
        value = compare(samples, Choice(metric, seed=study, replicates=400)).values[0]
        held += value.low <= expected <= value.high
    assert 0.93 <= held / studies <= 0.97, held / studies


def test_spread_over_networks():
    """Without image noise the interval is Student's for the networks' mean; without network noise it is the images'."""
    by_network = np.array([[1.0], [2.0], [4.0]])
    nothing = networks.spread(by_network, np.array([0.0]), np.array([0.0]))
    assert nothing.half_width[0] == pytest.approx(t.ppf(0.975, 2) * by_network.std(ddof=1) / np.sqrt(3))
    images = networks.spread(np.full((3, 1), 5.0), np.array([0.09]), np.array([0.09]))
    assert images.half_width[0] == pytest.approx(norm.ppf(0.975) * 0.3)
    # Of a network's variance 0.2 and their mean's 0.1 they share 0.05; the rest, 0.15 / 3, is in the networks' own.
    both = networks.spread(by_network, np.array([0.1]), np.array([0.2]))
    assert both.standard_error[0] ** 2 == pytest.approx(0.05 + by_network.var(ddof=1) / 3)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_p_values_are_those_of_the_intervals(seed, count):
    """A p value is 5 % at the end of the 95 % interval, falls with |t|, and lies between the normal's and Student's."""
    generator = np.random.default_rng(seed)
    by_network = generator.normal(0, generator.choice([0.0, 0.1, 1.0, 10.0]), (count, 4))
    of_one = generator.exponential(1, 4)
    of = networks.spread(by_network, of_one * generator.uniform(1 / count, 1, 4), of_one)
    np.testing.assert_allclose(of.p_values(of.half_width / of.standard_error), 0.05)
    statistics = generator.exponential(2, 4)
    p_values = of.p_values(statistics)
    assert (p_values >= 2 * norm.sf(statistics) * (1 - 1e-9)).all()
    assert (of.p_values(statistics + 0.1) < p_values).all()
    if count > 1:
        assert (p_values <= 2 * t.sf(statistics, count - 1) * (1 + 1e-9)).all()
    assert np.isnan(of.p_values(np.full(4, np.nan))).all()
    assert (of.p_values(np.full(4, 30.0)) < 0.03).all()
    assert of.p_values(np.zeros(4)) == pytest.approx(np.ones(4))


def test_replicates_over_networks_have_the_spread():
    """Their deviation, up to the tails, and their 95 % points against those of the sum that they stand for."""
    generator = np.random.default_rng(4)
    by_network = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    of_mean, of_one = np.array([0.25, 0.25]), np.array([0.3, 0.25])
    replicates = by_network.mean(axis=0) + generator.normal(0, 0.5, (100_000, 2))
    of = networks.spread(by_network, of_mean, of_one)
    drawn = networks.deviations(replicates, by_network, of_mean, of, seed=0)
    exact = np.sqrt(of.of_images[0]) * generator.normal(size=100_000)
    exact += np.sqrt(of.of_networks[0]) * t.rvs(2, size=100_000, random_state=generator)
    assert np.quantile(drawn[:, 0], 0.975) == pytest.approx(np.quantile(exact, 0.975), rel=0.04)
    assert np.quantile(drawn[:, 1], 0.975) == pytest.approx(0.5 * norm.ppf(0.975), rel=0.02)
    alone = networks.spread(by_network[:1], of_mean, of_mean)
    assert np.array_equal(
        networks.deviations(replicates, by_network[:1], of_mean, alone, 0), replicates - by_network[0]
    )


# -------------------------------------------------------------- bootstrap


def test_draws_are_of_the_stated_sizes_and_repeat():
    sizes = {"id/test": 50, "near/one": 1}
    drawn = bootstrap.draw(sizes, 20, seed=3)
    assert all((drawn[split].sum(axis=1) == size).all() for split, size in sizes.items())
    again = bootstrap.draw(sizes, 20, seed=3)
    assert all(np.array_equal(drawn[split], again[split]) for split in sizes)
    assert not np.array_equal(drawn["id/test"], bootstrap.draw(sizes, 20, seed=4)["id/test"])
    assert drawn["id/test"].mean(axis=0).std() > 0


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_values_and_pairing(metric):
    """Values are the metric's, the same scores do not differ, and a common part of the scores cancels."""
    samples = made_up(np.random.default_rng(1), (120, 100), (1.2, 1.0), correlation=0.99)
    scores = dict(samples.scores)
    scores["same"] = scores["d0"]
    samples = Samples("made up", ("",), scores, samples.predictions, samples.labels)
    made = compare(samples, Choice(metric, ood_share=0.3))
    own = scores["d1"][0]
    wrong = samples.wrong(0, ["id/test"])
    assert made.values[1].value == pytest.approx(measure(metric, own["id/test"], own["near/one"], wrong, 0.3))
    by_pair = {(each.first, each.second): each for each in made.differences}
    same = by_pair["d0", "same"]
    assert (same.points, same.low, same.high, same.p, same.adjusted) == (0, 0, 0, 1, 1)
    paired = by_pair["d0", "d1"]
    assert paired.high - paired.low < 0.7 * (made.values[0].high - made.values[0].low)
    assert paired.points == pytest.approx(made.values[0].value - made.values[1].value)
    assert ["d0", "same"] in [sorted(set(run) & {"d0", "same"}) for run in made.ties["near"]]


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    samples = made_up(np.random.default_rng(1), (60, 50), (1.2, 1.0, 0.5), (0.0, 0.1))
    first = compare(samples, Choice("fpr95"))
    monkeypatch.setattr(bootstrap, "in_threads", lambda work: [each() for each in work])
    assert compare(samples, Choice("fpr95")) == first


@pytest.mark.parametrize("metric", ["auroc", "augrc"])
def test_a_difference_without_spread_has_no_p_value(metric):
    """Two detectors that separate perfectly, one the wrong way round: no draw changes anything."""
    right = {"id/test": np.arange(10.0) + 100, "near/one": np.arange(10.0)}
    wrong_way = {split: -values for split, values in right.items()}
    labels = {split: np.zeros(10, dtype=int) for split in right}
    samples = Samples("x", ("",), {"good": [right], "bad": [wrong_way]}, [labels], [labels])
    made = compare(samples, Choice(metric))
    if metric == "auroc":
        assert made.differences[0].points == 100
        assert np.isnan(made.differences[0].p)
        assert made.record()["differences"][0]["adjusted"] is None
        text = " ".join(comparison_text(made).split())
        assert "fewer than 30 samples, so intervals are rough: id/test (10), near/one (10)" in text
    else:
        assert made.differences[0].points < 0


def test_groups_and_full_spectrum():
    samples = made_up(np.random.default_rng(1), (80, 70), (1.2, 0.8), csid=True)
    own = samples.scores["d0"][0]
    shifted = compare(samples, Choice("csid_auroc"))
    assert shifted.values[0].value == pytest.approx(measure("auroc", own["csid/one"], own["near/one"]))
    turned_away = compare(samples, Choice("csid_rejection"))
    assert turned_away.groups == ["csid"]
    assert turned_away.values[0].value == pytest.approx(measure("csid_rejection", own["id/test"], own["csid/one"]))
    full = compare(samples, Choice("auroc", setting="fsood"))
    together = np.concatenate([own["id/test"], own["csid/one"]])
    assert full.values[0].value == pytest.approx(measure("auroc", together, own["near/one"]))
    without = made_up(np.random.default_rng(1), (80, 70), (1.2, 0.8))
    for choice in (Choice("csid_auroc"), Choice("csid_rejection"), Choice(setting="fsood")):
        with pytest.raises(PluginError, match="no covariate-shifted set"):
            check(without, choice)


@pytest.mark.parametrize("metric", ["auroc", "fpr95"])
def test_values_of_groups_and_their_data_sets(metric):
    """Those of groups are a comparison's; a group of one set is that set; without intervals the values are the same."""
    samples = made_up(np.random.default_rng(1), (80, 70), (1.2, 0.8), (0.0, 0.3))
    made = values(samples, Choice(metric), intervals=True)
    assert [each for each in made if each.group == "near"] == compare(samples, Choice(metric)).values
    assert [replace(each, group="near") for each in made if each.group == "near/one"] == made[:2]
    alone = values(samples, Choice(metric), intervals=False)
    np.testing.assert_allclose([each.by_network for each in alone], [each.by_network for each in made])
    assert all(np.isnan(each.low) for each in alone)
    one = values(replace(samples, scores={"d0": samples.scores["d0"]}), Choice(metric), intervals=True)
    ends = {"low": made[0].low, "high": made[0].high}
    assert replace(one[0], **ends) == made[0], "of one detector alone"
    np.testing.assert_allclose([one[0].low, one[0].high], list(ends.values()), rtol=1e-12)


def test_ranks_are_what_the_differences_leave():
    """Everyone above is better, everyone below is worse, and who cannot be told apart shares the range."""
    samples = made_up(np.random.default_rng(1), (200, 200), (3.0, 1.0, 1.01, -1.0))
    assert compare(samples, Choice()).ranks("near") == {"d0": "1", "d1": "2-3", "d2": "2-3", "d3": "4"}
    low = compare(samples, Choice("fpr_at_id_tpr95")).ranks("near")
    assert (low["d0"], low["d3"]) == ("1", "4")


def test_against_one():
    samples = made_up(np.random.default_rng(1), (80, 70), (1.2, 0.8, 1.0))
    every = {(each.first, each.second): each for each in compare(samples, Choice()).differences}
    against = compare(samples, Choice(against="d1")).differences
    assert [(each.first, each.second) for each in against] == [("d0", "d1"), ("d2", "d1")]
    assert against[0].points == every["d0", "d1"].points
    assert against[1].points == -every["d1", "d2"].points
    assert against[1].low == pytest.approx(-every["d1", "d2"].high)


@pytest.mark.parametrize("metric", ["auroc", "fpr95"])
def test_about_these_networks_alone(metric):
    """Values are the same; networks that differ do not widen the intervals, and images do as ever."""
    samples = made_up(np.random.default_rng(1), (150, 150), (1.2, 0.9), (-0.5, 0.0, 0.5))
    over, alone = (compare(samples, Choice(metric, these_networks=these)) for these in (False, True))
    assert [each.value for each in over.values] == [each.value for each in alone.values]
    assert "images and 3 networks" in over.method
    assert "these networks alone" in alone.method
    widths = [made.values[0].high - made.values[0].low for made in (over, alone)]
    assert widths[0] > 2 * widths[1] > 0


def test_what_cannot_be_compared():
    samples = made_up(np.random.default_rng(1), (80, 70), (1.2,))
    with pytest.raises(PluginError, match="at least two detectors"):
        compare(samples, Choice())
    with pytest.raises(PluginError, match="near/one.*at least 2 samples"):
        compare(made_up(np.random.default_rng(1), (80, 1), (1.2, 1.0)), Choice())
    with pytest.raises(PluginError, match="detector to compare against 'd3'"):
        compare(made_up(np.random.default_rng(1), (80, 70), (1.2, 1.0)), Choice(against="d3"))


# -------------------------------------------------------- many benchmarks


def test_conover_is_least_significant_difference_on_ranks():
    """The post-hoc t is that of a two-way analysis of variance of the ranks, fitted by least squares."""
    generator = np.random.default_rng(0)
    values = generator.normal(np.array([0, 0.5, 3.0, 3.5]), 1, (8, 4))
    ranking = friedman(values, higher_is_better=False)
    ranks = values.argsort(axis=1).argsort(axis=1) + 1.0
    np.testing.assert_allclose(ranking.mean_ranks, ranks.mean(axis=0))
    rows, columns = np.indices(ranks.shape)
    design = np.concatenate([np.eye(8)[rows.ravel()], np.eye(4)[columns.ravel()]], axis=1)
    residual = np.linalg.lstsq(design, ranks.ravel(), rcond=None)[1]
    residual = np.sum((ranks.ravel() - design @ np.linalg.lstsq(design, ranks.ravel(), rcond=None)[0]) ** 2)
    error = np.sqrt(2 * residual / 21 / 8)
    pairs = list(combinations(range(4), 2))
    p_values = [2 * t.sf(abs(ranks[:, a].mean() - ranks[:, b].mean()) / error, 21) for a, b in pairs]
    np.testing.assert_allclose([ranking.pairs[pair] for pair in pairs], holm(np.array(p_values)))
    assert ranking.p < 0.05


def test_conover_known_answer():
    """Rank sums 38, 23.5, 24.5, 34 of 12 blocks with sum of squared ranks 356.5 (Conover 1999, section 5.8)."""
    sums, squares, blocks = np.array([38, 23.5, 24.5, 34]), 356.5, 12
    least = t.ppf(0.975, 33) * np.sqrt(2 * (blocks * squares - np.sum(sums**2)) / 33)
    assert least == pytest.approx(11.49, abs=0.02)
    # The same in the form of `friedman`: means instead of sums.
    assert least / blocks == pytest.approx(
        t.ppf(0.975, 33) * np.sqrt(2 * ((squares - blocks * np.sum((sums / blocks) ** 2)) / 33) / blocks)
    )


def test_friedman_without_differences():
    ranking = friedman(np.tile([1.0, 2.0, 3.0], (6, 1)) * 0, higher_is_better=True)
    assert ranking.p == 1
    assert (ranking.pairs == 1).all()
    always = friedman(np.tile([1.0, 2.0, 3.0], (6, 1)), higher_is_better=True)
    assert always.mean_ranks.tolist() == [3, 2, 1]
    assert (always.pairs[np.triu_indices(3, 1)] == 0).all(), "the same order everywhere leaves no residual"


def test_cliques_by_brute_force():
    """Two share a group exactly if they are not apart; every group is as large as it can be, and none is needless."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        count = int(generator.integers(1, 9))
        apart = np.triu(generator.random((count, count)) < generator.random(), 1)
        apart = apart | apart.T
        order = list(map(int, generator.permutation(count)))
        groups = cliques(order, apart)
        for one, two in combinations(range(count), 2):
            assert any({one, two} <= set(group) for group in groups) == (not apart[one, two])
        assert {each for group in groups for each in group} == set(range(count))
        for group in groups:
            outside = set(range(count)) - set(group)
            assert all(any(apart[each, member] for member in group) for each in outside)
        assert len({tuple(group) for group in groups}) == len(groups)


def test_cliques_of_ranks_are_runs():
    """Where all within a distance tie, as with one critical difference, the groups are the longest runs."""
    generator = np.random.default_rng(1)
    for _ in range(100):
        places = np.sort(generator.random(int(generator.integers(1, 12))))
        groups = cliques(list(range(len(places))), np.abs(places[:, None] - places) > 0.3)
        ends = [int(np.searchsorted(places, place + 0.3, side="right")) for place in places]
        runs = [list(range(a, b)) for a, b in enumerate(ends) if a == 0 or b > ends[a - 1]]
        assert groups == runs


def test_over_benchmarks():
    def benchmark(place, shifts=(2.0, 1.0, 0.9)):
        samples = made_up(np.random.default_rng(place), (60, 50), shifts)
        return Samples(f"b{place}", samples.networks, samples.scores, samples.predictions, samples.labels)

    few = over_benchmarks([compare(benchmark(place), Choice()) for place in range(4)])
    assert over_benchmarks_text(few) == "near over 4 benchmarks: no power: 5 benchmarks are needed"
    made = [compare(benchmark(place), Choice()) for place in range(6)]
    test = over_benchmarks(made)[0]
    values = np.array([[value.value for value in each.values] for each in made])
    expected = friedman(values, higher_is_better=True)
    assert test.p == pytest.approx(expected.p)
    assert test.mean_ranks[0][0] == "d0"
    assert "near over 6 benchmarks: Friedman chi2" in over_benchmarks_text([test])
    pairs = over_benchmarks([compare(benchmark(place, (2.0, 1.0)), Choice()) for place in range(5)])
    assert pairs[0].reason == "3 detectors on every benchmark are needed"
    with pytest.raises(PluginError, match="each must be there once"):
        over_benchmarks([made[0], made[0]])


def test_letters():
    letters = tie_letters([["a", "b"], ["b", "c"], ["d"]])
    assert letters == {"a": "a", "b": "ab", "c": "b", "d": "c"}
    many = tie_letters([[str(place)] for place in range(MOST_TIES)])
    assert len(set(many.values())) == MOST_TIES


def test_only_ties_with_the_best_are_marked_where_there_are_too_many():
    samples = made_up(np.random.default_rng(1), (80, 70), (1.2, 1.1, 0.0))
    made = compare(samples, Choice())
    assert "same letter = tie" in comparison_text(made)
    many = replace(made, ties={"near": [["d0", "d1"], *[["d2", str(place)] for place in range(MOST_TIES)]]})
    lines = comparison_text(many).splitlines()
    assert "ties with the best" in next(line for line in lines if line.startswith("near "))
    assert [line[:2] for line in lines if line.endswith(" =")] == ["d0", "d1"]


def test_every_metric_can_be_chosen():
    assert {name for name in METRIC_COLUMNS if Choice(name).uses_delong} == {"auroc", "csid_auroc"}
