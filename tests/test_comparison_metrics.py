"""Metrics of comparisons against brute force, on random and on tied scores, as they are and under bootstrap weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from nci_plugin.comparison.worst import by_ood_class, by_predicted_class, id_threshold, worst
from nci_plugin.metrics import measure, ood_metrics
from nci_plugin.metrics.columns import METRIC_COLUMNS, augrc, aurc, autc
from nci_plugin.metrics.counts import SortedScores

SIZES = st.integers(2, 40)
TIED = st.integers(-3, 3).map(float)
FREE = st.floats(-5, 5, width=32)
EXAMPLES = settings(max_examples=150, deadline=None)


@st.composite
def samples(draw, elements=None):
    """ID scores, OOD scores and wrong predictions; scores with many ties or with few, or as many of each at many."""
    if elements is None and draw(st.booleans()):
        numbers = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60))
        places = np.arange(len(numbers), dtype=np.float32)
        of_id, of_ood = np.array([[1, 1], *numbers[1:]]).T
        id_scores, ood_scores = np.repeat(places, of_id), np.repeat(places, of_ood)
        return id_scores, ood_scores, draw(arrays(bool, len(id_scores)))
    values = draw(st.sampled_from([TIED, FREE])) if elements is None else elements
    n_id, n_ood = draw(SIZES), draw(SIZES)
    return (
        draw(arrays(np.float32, n_id, elements=values)),
        draw(arrays(np.float32, n_ood, elements=values)),
        draw(arrays(bool, n_id)),
    )


# ------------------------------------------------------------ brute force


def openoods(id_scores, ood_scores):
    """OpenOOD's metrics by scikit-learn, as its evaluator computes them."""
    scores, is_ood = np.concatenate([id_scores, ood_scores]), np.repeat([0, 1], [len(id_scores), len(ood_scores)])
    fpr, tpr, _ = roc_curve(is_ood, -scores)
    precision_in, recall_in, _ = precision_recall_curve(1 - is_ood, scores)
    precision_out, recall_out, _ = precision_recall_curve(is_ood, -scores)
    shares = {
        "fpr95": fpr[np.argmax(tpr >= 0.95)],
        "auroc": auc(fpr, tpr),
        "aupr_in": auc(recall_in, precision_in),
        "aupr_out": auc(recall_out, precision_out),
    }
    return {name: 100 * share for name, share in shares.items()}


def accepted_id_share(id_scores, threshold):
    return sum(score >= threshold for score in id_scores) / len(id_scores)


def rejected(id_scores, ood_scores):
    best = max(t for t in id_scores if accepted_id_share(id_scores, t) >= 0.95)
    return sum(score < best for score in ood_scores) / len(ood_scores)


def weighted(id_scores, ood_scores, wrong, share):
    scores = np.concatenate([id_scores, ood_scores])
    failed = np.concatenate([wrong, np.ones(len(ood_scores), dtype=bool)])
    weights = np.concatenate(
        [np.full(len(id_scores), (1 - share) / len(id_scores)), np.full(len(ood_scores), share / len(ood_scores))]
    )
    return scores, failed, weights


def aurc_by_loop(id_scores, ood_scores, wrong, share):
    """Risk at every threshold from the definition, joined as the authors' code joins them."""
    scores, failed, weights = weighted(id_scores, ood_scores, wrong, share)
    coverages, risks = [], []
    for threshold in sorted(set(scores.tolist())):
        kept = scores >= threshold
        coverages.append(weights[kept].sum())
        risks.append(weights[kept & failed].sum() / weights[kept].sum())
    return auc([*coverages, 0.0][::-1], [*risks, risks[-1]][::-1])


def augrc_by_pairs(id_scores, ood_scores, wrong, share):
    """The chance that a random failure scores at least as high as a random threshold sample, ties counting half."""
    scores, failed, weights = weighted(id_scores, ood_scores, wrong, share)
    total = 0.0
    for score, weight in zip(scores[failed], weights[failed]):
        for other, other_weight in zip(scores, weights):
            total += weight * other_weight * ((score > other) + 0.5 * (score == other))
    return total


def autc_by_steps(id_scores, ood_scores):
    """Both curves summed over the intervals between neighbouring thresholds, on which they are constant."""
    every = np.concatenate([id_scores, ood_scores]).astype(float)
    if every.max() == every.min():
        return 0.5
    id_ood, ood_ood = ((every.max() - s.astype(float)) / (every.max() - every.min()) for s in (id_scores, ood_scores))
    cuts = np.unique(np.concatenate([id_ood, ood_ood, [0.0, 1.0]]))
    area = 0.0
    for low, high in zip(cuts[:-1], cuts[1:]):
        middle = (low + high) / 2
        area += (high - low) * (np.mean(id_ood > middle) + np.mean(ood_ood <= middle)) / 2
    return area


@EXAMPLES
@given(samples())
def test_against_openood_and_brute_force(case):
    id_scores, ood_scores, _ = case
    stored = ood_metrics(id_scores, ood_scores)
    for name, value in openoods(id_scores, ood_scores).items():
        assert measure(name, id_scores, ood_scores) == pytest.approx(value, abs=1e-9), name
        assert getattr(stored, name) == measure(name, id_scores, ood_scores)
    share = rejected(id_scores, ood_scores)
    assert measure("csid_rejection", id_scores, ood_scores) == pytest.approx(100 * share, abs=1e-9)
    assert measure("fpr_at_id_tpr95", id_scores, ood_scores) == pytest.approx(100 * (1 - share), abs=1e-9)
    assert measure("autc", id_scores, ood_scores) == pytest.approx(100 * autc_by_steps(id_scores, ood_scores), abs=1e-6)


@EXAMPLES
@given(samples(), st.sampled_from([0.1, 0.5, 0.8]))
def test_risk_coverage_by_brute_force(case, share):
    assert measure("aurc", *case, share) == pytest.approx(100 * aurc_by_loop(*case, share), abs=1e-9)
    assert measure("augrc", *case, share) == pytest.approx(100 * augrc_by_pairs(*case, share), abs=1e-9)


@EXAMPLES
@given(samples(FREE), st.sampled_from([0.2, 0.5]))
def test_augrc_by_the_auroc_of_failures(case, share):
    scores, failed, weights = weighted(*case, share)
    if not failed.all():
        error = weights[failed].sum()
        own = roc_auc_score(~failed, scores, sample_weight=weights)
        assert measure("augrc", *case, share) == pytest.approx(
            100 * ((1 - own) * error * (1 - error) + error**2 / 2), abs=1e-6
        )


def test_fpr95_where_scikit_learn_leaves_its_point_out():
    """Every score once on either side: a straight ROC curve has but its ends, so FPR@95 is 100, not 95."""
    scores = np.arange(40.0)
    assert measure("fpr95", scores, scores) == ood_metrics(scores, scores).fpr95 == 100
    assert measure("fpr_at_id_tpr95", scores, scores) == pytest.approx(95)


def test_risk_coverage_of_extreme_scores():
    """A perfect order leaves the least risk that the errors allow; the worst has every failure before any success."""
    right, ood, never = np.array([2.0, 3.0]), np.array([0.0, 1.0]), np.zeros(2, dtype=bool)
    assert measure("augrc", right, ood, never) == pytest.approx(100 * 0.5 * 0.5**2)
    assert measure("augrc", ood, right, never) == pytest.approx(100 * (0.5**2 + 0.5**3))
    assert measure("augrc", ood, right, ~never) == pytest.approx(50), "everything fails"
    assert measure("aurc", ood, right, ~never) == pytest.approx(100)
    assert measure("aurc", right, ood, never, 0.5) == pytest.approx(
        100 * (0.25 * (1 / 3) / 2 + 0.25 * (1 / 3 + 0.5) / 2)
    )


def test_autc_depends_on_the_scale_and_ranks_do_not():
    id_scores, ood_scores = np.array([1.0, 0.9, 0.8]), np.array([0.2, 0.1, 0.0])
    outlier = np.append(id_scores, 100.0)
    assert measure("autc", id_scores, ood_scores) == pytest.approx(10)
    assert measure("autc", outlier, ood_scores) > 35
    assert measure("auroc", outlier, ood_scores) == 100
    assert measure("autc", np.array([1.0, 1.0]), np.array([0.0])) == 0
    assert measure("autc", np.array([0.0]), np.array([1.0, 1.0])) == 100
    assert measure("autc", np.array([2.0]), np.array([2.0, 2.0])) == 50


@EXAMPLES
@given(samples(), st.integers(0, 2**32 - 1))
def test_weights_are_the_samples_drawn_so_often(case, seed):
    """A replicate by weights equals the metric of the samples written out, whatever the ties."""
    id_scores, ood_scores, wrong = case
    generator = np.random.default_rng(seed)
    id_weights, ood_weights = (
        np.bincount(generator.integers(0, len(s), len(s)), minlength=len(s)).astype(np.uint8)
        for s in (id_scores, ood_scores)
    )
    drawn = [np.repeat(id_scores, id_weights), np.repeat(ood_scores, ood_weights), np.repeat(wrong, id_weights)]
    counts = SortedScores(*case).counts(id_weights, ood_weights)
    for name, metric in METRIC_COLUMNS.items():
        if metric.function is not autc:  # whose scale is that of all samples
            assert 100 * metric.function(counts) == pytest.approx(measure(name, *drawn), abs=1e-9), name
    for function in (aurc, augrc):
        assert 100 * function(counts, 0.3) == pytest.approx(measure(function.__name__, *drawn, 0.3), abs=1e-9)


@EXAMPLES
@given(samples(TIED), st.integers(1, 3))
def test_ties_and_order_do_not_matter(case, copies):
    """Metrics other than FPR@95, whose curve leaves points out, do not change when every sample is there twice."""
    id_scores, ood_scores, wrong = case
    turned = [np.tile(each[::-1], copies) for each in case]
    for name in METRIC_COLUMNS:
        if name != "fpr95" and (copies == 1 or "95" not in name and name != "csid_rejection"):
            expected = measure(name, id_scores, ood_scores, wrong)
            assert measure(name, *turned) == pytest.approx(expected, abs=1e-9), name


def test_failures_need_predictions():
    with pytest.raises(ValueError, match="predicted wrongly"):
        measure("aurc", np.array([1.0, 2.0]), np.array([0.0]))


# ----------------------------------------------------------- worst groups


def test_worst_groups_by_brute_force():
    generator = np.random.default_rng(3)
    id_scores, ood_scores = generator.normal(1, 1, 900).round(1), generator.normal(0, 1, 700).round(1)
    id_classes, ood_classes = generator.integers(0, 4, 900), generator.integers(0, 4, 700)
    ood_scores[ood_classes == 2] += 1.0  # one class attracts OOD samples that look like ID
    id_classes[id_classes == 3] = 0
    id_classes[:5] = 3  # too few to say anything
    groups = by_predicted_class(id_scores, id_classes, ood_scores, ood_classes)
    assert [each.name for each in groups] == ["0", "1", "2"]
    assert worst(groups)[0].name == "2"
    threshold = id_threshold(id_scores)
    assert np.mean(id_scores >= threshold) >= 0.95 > np.mean(id_scores > threshold)
    for each in groups:
        own_id, own_ood = id_scores[id_classes == int(each.name)], ood_scores[ood_classes == int(each.name)]
        assert (each.n_id, each.n_ood) == (len(own_id), len(own_ood))
        assert each.auroc == pytest.approx(ood_metrics(own_id, own_ood).auroc)
        assert each.fpr == pytest.approx(100 * np.mean(own_ood >= threshold))
    for each in worst(groups):
        assert each.low < each.auroc < each.high
    labels = np.where(ood_classes == 1, -1, ood_classes)
    assert [each.name for each in by_ood_class(id_scores, ood_scores, labels)] == ["0", "2", "3"]
    assert by_ood_class(id_scores, ood_scores, np.full(700, -1)) == []
    assert len(worst(groups, 1)) == 1
