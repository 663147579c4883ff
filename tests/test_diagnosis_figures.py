"""What the figures and tables of a diagnosis show, read off their axes and rows; also of odd classes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnosed import diagnosed
from geometry import etf, head_of, imbalanced

from nci_plugin.collapse.registry import of_training
from nci_plugin.diagnosis.explanation import explain
from nci_plugin.report.class_figures import (
    FEW_CLASSES,
    cosine_figure,
    count_figure,
    distance_figure,
    duality_figure,
    variance_figure,
)
from nci_plugin.report.diagnosis_figures import FIGURES, figures
from nci_plugin.report.diagnosis_files import Stored, read_diagnoses, write_diagnosis, write_explanation
from nci_plugin.report.diagnosis_tables import class_table, ood_table, sample_mean_table
from nci_plugin.report.figures import rendered
from nci_plugin.report.names import display_name
from nci_plugin.report.score_figures import members

pytestmark = pytest.mark.usefixtures("one_thread")

LONG_TAIL = tuple(int(200 * 0.9**k) + 1 for k in range(40))


@pytest.fixture(scope="module")
def few() -> Stored:
    return diagnosed(*imbalanced((40, 20, 10, 5)))


@pytest.fixture(scope="module")
def many() -> Stored:
    """40 classes of 200 down to 4 samples, in 50 features, one of 41 absent."""
    features, labels, head = imbalanced(LONG_TAIL, width=50)
    weight = torch.cat([head.weight, torch.ones(1, 50, dtype=torch.float64)])
    return diagnosed(features, labels, head_of(weight))


def all_figures(stored: Stored):
    return {name: figure for name, draw in FIGURES.items() if (figure := draw(stored)) is not None}


def title_of(figure):
    """Figure.get_suptitle came with matplotlib 3.8."""
    return figure._suptitle.get_text()


@pytest.mark.parametrize("which", ["few", "many"])
def test_every_figure_names_subject_benchmark_network_and_number(which, request):
    stored = request.getfixturevalue(which)
    drawn = all_figures(stored)
    assert set(drawn) == set(FIGURES) - {"layers"}  # which only images have
    for name, figure in drawn.items():
        title = title_of(figure)
        assert f"made, one network, K = {len(stored.record.collapse.classes)}" in title, name
        texts = [
            title,
            *(
                t.get_text()
                for a in figure.axes
                for t in [a.title, *(a.get_legend_handles_labels()[1])]
                if hasattr(t, "get_text")
            ),
        ]
        legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert any("n = " in text for text in [*texts, *legends]), name


def test_variances_of_few_classes_one_by_one_and_as_a_histogram(few):
    bars, counts = variance_figure(few).axes
    assert [bar.get_height() for bar in bars.patches] == list(few.record.collapse.class_variances)
    assert sum(bar.get_width() for bar in counts.patches) == 4
    assert "feature units²" in bars.get_ylabel()


def test_variances_of_many_classes_are_a_histogram_of_those_that_have_one(many):
    (axis,) = variance_figure(many).axes
    assert sum(bar.get_height() for bar in axis.patches) == len(LONG_TAIL)


def test_weight_cosines_are_shown_centred_and_uncentred(few):
    collapse = few.record.collapse
    figure = duality_figure(few)
    bars, counts = figure.axes
    drawn = {each.get_label(): [bar.get_height() for bar in each] for each in bars.containers}
    assert drawn["weight and centred mean: NC3"] == list(collapse.nc3_cosines)
    assert drawn["weight and uncentred mean: not NC3"] == list(collapse.uncentred_cosines)
    for axis in (bars, counts):
        lines = [list(line.get_ydata()) for line in axis.lines]
        assert [1, 1] in lines
        assert any(line == pytest.approx([collapse.nc3_cosine_mean] * 2) for line in lines)
    assert f"mean cosine {collapse.nc3_cosine_mean:.4g}" in title_of(figure)
    steps = [set(np.round(patch.get_xy()[:, 1], 9)) for patch in counts.patches]
    assert steps[0] == steps[1]  # one grid of bins


def test_mean_variance_is_a_line_and_nc1_in_the_title(few):
    collapse, figure = few.record.collapse, variance_figure(few)
    for axis in figure.axes:
        assert list(axis.lines[0].get_ydata()) == pytest.approx([np.mean(collapse.class_variances)] * 2)
    assert f"NC1 = {collapse.nc1_quotient:.4g}" in title_of(figure)


def test_without_room_for_a_simplex_none_is_drawn():
    stored = diagnosed(*imbalanced((16, 8, 7, 6, 5), width=3))
    measured, counts, _ = cosine_figure(stored).axes
    assert measured.get_title() == "measured"
    assert (list(counts.lines), counts.get_title()) == ([], "all pairs; no ETF: K > P + 1")
    assert not any("ETF" in str(line.get_label()) for line in count_figure(stored).axes[2].lines)
    assert "out of reach at collapse" in "".join(explain([stored.record]).sentences)


def test_every_set_in_the_plane_has_its_own_colour_and_marker(few):
    drawn = [each for each in FIGURES["plane"](few).axes[0].collections if "n = " in str(each.get_label())]
    looks = {(tuple(each.get_facecolor()[0]), each.get_paths()[0].vertices.tobytes()) for each in drawn}
    assert len(looks) == len(drawn) == 5
    assert len({colour for colour, _ in looks}) == 5
    assert len({marker for _, marker in looks}) == 5


@pytest.mark.slow
def test_nothing_is_cut_off_or_overlaps_at_1000_classes():
    stored = diagnosed(*imbalanced((3,) * 1000, width=64))
    for name in ("cosines", "distances", "duality", "variances", "plane"):
        figure = FIGURES[name](stored)
        rendered(figure, "png")  # lays it out
        inside = figure.bbox
        for axis in figure.axes:
            box = axis.get_tightbbox()
            assert box.x0 >= inside.x0, name
            assert box.x1 <= inside.x1 + 1, name
            for labels, side in ((axis.get_xticklabels(), "x"), (axis.get_yticklabels(), "y")):
                ends = sorted(
                    (extent.x0, extent.x1) if side == "x" else (extent.y0, extent.y1)
                    for extent in (text.get_window_extent() for text in labels if text.get_text())
                )
                assert all(first[1] <= second[0] + 1 for first, second in zip(ends, ends[1:])), (name, side)


def test_long_names_of_classes_leave_room_for_the_figure(few):
    """Names as of ImageNet's classes took all of it, and matplotlib said so on standard error."""
    names = [
        f"{animal} hunting dog, hyena dog, Cape hunting dog, Lycaon" for animal in ("African", "Indian", "Red", "Wild")
    ]
    named = replace(few, record=replace(few.record, class_names=names))
    for draw in (variance_figure, duality_figure, cosine_figure, distance_figure):
        figure = draw(named)
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().height > 0.3
        shown = {text.get_text() for text in figure.axes[0].get_xticklabels()}
        assert shown == {"African h…Lycaon", "Indian hu…Lycaon", "Red hunti…Lycaon", "Wild hunt…Lycaon"}
    assert {text.get_text() for text in FIGURES["plane"](named).axes[0].texts} == shown  # where the numbers were


def test_cosines_have_the_line_of_the_simplex(few):
    measured, ideal, counts, _ = cosine_figure(few).axes
    means = np.array([few.arrays["plane/means"][k] for k in range(4)])
    assert means.shape == (4, 2)
    matrix, order = measured.images[0].get_array(), list(few.arrays["class_order"])
    first, second = order.index(0), order.index(1)
    assert matrix[first, second] == few.arrays["pair_cosines"][0] == matrix[second, first]
    assert set(np.unique(ideal.images[0].get_array())) == {-1 / 3, 1.0}
    assert list(counts.lines[0].get_xdata()) == [-1 / 3, -1 / 3]
    assert sum(bar.get_height() for bar in counts.patches) == 6


@pytest.mark.parametrize("which", ["few", "many"])
def test_distances_are_in_the_order_of_the_clustering_and_labelled(which, request):
    stored = request.getfixturevalue(which)
    axis = distance_figure(stored).axes[0]
    matrix, classes = axis.images[0].get_array(), stored.arrays["classes"][stored.arrays["class_order"]]
    assert np.array_equal(matrix, matrix.T)
    labels = {int(place): text.get_text() for place, text in zip(axis.get_xticks(), axis.get_xticklabels())}
    assert 2 <= len(labels) <= FEW_CLASSES
    assert all(str(classes[place]) == label for place, label in labels.items())
    first, second = sorted(classes[:2])
    pair = [tuple(each) for each in np.stack(np.triu_indices(len(classes), 1), axis=1)].index((first, second))
    assert matrix[0, 1] == stored.arrays["pair_distances"][pair]


def test_class_sizes_against_lengths_with_the_slope_and_against_angles(few):
    collapse = few.record.collapse
    of_weights, of_means, angles = count_figure(few).axes
    for axis, field, slope in (
        (of_weights, "nc2_weight_norms", "gof_slope_weights"),
        (of_means, "class_mean_norms", "gof_slope_means"),
    ):
        points, line = axis.lines
        assert list(points.get_xdata()) == [40, 20, 10, 5]
        assert list(points.get_ydata()) == list(collapse.values[field])
        x, y = np.log(line.get_xdata()), np.log(line.get_ydata())
        fit = np.polyfit(np.log(collapse.class_counts), np.log(collapse.values[field]), 1)
        assert (y[1] - y[0]) / (x[1] - x[0]) == pytest.approx(fit[0]) == pytest.approx(collapse.values[slope])
        assert y == pytest.approx(np.polyval(fit, x))
    drawn = {line.get_label(): list(line.get_ydata()) for line in angles.lines}
    assert drawn["weights"] == list(collapse.smallest_angles_weights)
    assert drawn["centred means"] == list(collapse.smallest_angles_means)
    assert drawn["ETF, 109.5°"][0] == pytest.approx(math.degrees(math.acos(-1 / 3)))
    assert count_figure(diagnosed(*imbalanced((9, 9, 9)))) is None


def test_scores_and_roc_curves_hold_every_sample_of_their_group(few):
    for group, count in (("near", 70), ("far", 50)):
        figure = FIGURES[f"scores_{group}"](few)
        legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
        sizes = [len(few.scores["nc1"][split]) for split in members(few.scores["nc1"], group)]
        assert sum(sizes) == count
        assert all(f"n = {size}" in legend for size in sizes)
        assert [axis.get_title().split(",")[0] for axis in figure.axes if axis.get_title()] == list(
            map(display_name, few.scores)
        )
        assert f"{group}-OOD, n = {count}" in [axis.get_title() for axis in FIGURES["roc"](few).axes]


# -------------------------------------------------------------------- from files alone, and odd classes


def test_figures_are_drawn_from_files_alone_and_the_same(few, tmp_path):
    from nci_plugin.diagnosis.network import Diagnosis

    write_diagnosis(tmp_path, "", Diagnosis(few.record, dict(few.arrays)))
    write_explanation(tmp_path, explain([few.record]))
    (tmp_path / "scores").mkdir()
    for detector, by_split in few.scores.items():
        np.savez(tmp_path / "scores" / f"{detector}.npz", **by_split)
    (again,) = read_diagnoses(tmp_path)
    assert again.name == few.name
    drawn = {Path(name).name: rendered(figure, "png") for name, figure in figures(tmp_path)}
    assert drawn.pop("explanation")
    assert drawn == {name: rendered(figure, "png") for name, figure in all_figures(few).items()}


@pytest.mark.parametrize(
    ("counts", "width", "without"),
    [
        ((7,), 5, {"cosines", "distances", "class_sizes", "plane", "duality"}),  # one class
        ((6, 4), 5, {"class_sizes", "plane"}),  # two: their means lie on a line
        ((1, 1, 1), 5, {"variances", "class_sizes"}),  # nothing varies within classes
        ((9, 1, 5), 2, set()),  # more classes than features, one of a single sample
        ((9, 0, 5), 4, {"class_sizes", "plane"}),  # one absent
    ],
)
def test_odd_classes_draw_what_there_is(counts, width, without):
    stored = diagnosed(*imbalanced(counts, width=width))
    assert set(FIGURES) - {"layers"} - set(all_figures(stored)) == without
    rows = class_table("network", stored.record).rows
    assert len(rows) - 1 == sum(count > 0 for count in counts)


def test_constant_features_draw_what_there_is():
    stored = diagnosed(torch.full((12, 4), 2.0), torch.arange(12) % 3, head_of(torch.randn(3, 4)))
    assert {"cosines", "duality", "plane"}.isdisjoint(all_figures(stored))
    assert "vary" in " ".join(stored.record.not_scored.values())


# -------------------------------------------------------------------- tables


def test_table_of_classes_holds_every_value(few):
    header, *rows = class_table("network", few.record).rows
    assert header == ["class", "n_k", *(metric.label for metric in of_training(per_class=True))]
    assert [row[:2] for row in rows] == [["0", "40"], ["1", "20"], ["2", "10"], ["3", "5"]]
    cosines = few.record.collapse.nc3_cosines
    assert [row[header.index("cos(w_k, mu_k - mu_G)")] for row in rows] == [f"{cosine:.4g}" for cosine in cosines]


def test_other_global_mean_is_shown_where_it_makes_a_difference(few):
    header, *rows = sample_mean_table(["network"], [few.record]).rows
    assert header == ["metric", "network"]
    shown = {label: value for label, value in rows}
    sample = few.record.collapse_sample_mean
    assert shown["NC1 Tr(Sigma_W) / Tr(Sigma_B)"] == f"{sample.nc1_quotient:.4g}"
    assert shown["NC2 ETF error, centred means"] == f"{sample.nc2_etf_error:.4g}"
    assert "NC1 class-distance normalised variance" not in shown  # is free of mu_G
    assert "feature norm, mean ||h||_2" not in shown
    assert sample_mean_table(["network"], [diagnosed(*imbalanced((9, 9, 9))).record]) is None


def test_angle_to_the_simplex_is_that_to_the_means_where_they_are_one():
    vertices = etf(4, 6)
    stored = diagnosed(3 * vertices.repeat(5, 1), torch.arange(4).repeat(5), head_of(vertices))
    for split in stored.record.splits.values():
        assert split.frame["etf_angle"] == pytest.approx(split.frame["vertex_angle"])
    assert stored.record.splits["id/test"].frame["etf_angle"] < 10
    header, *rows = ood_table([stored.record]).rows
    assert {row[header.index("angle")] for row in rows} == {row[header.index("to ETF")] for row in rows}


def test_angle_to_a_simplex_that_does_not_exist_is_unknown():
    stored = diagnosed(*imbalanced((9, 8, 7, 6), width=2))
    assert all(split.frame["etf_angle"] is None for split in stored.record.splits.values())
    header, *rows = ood_table([stored.record]).rows
    assert {row[header.index("to ETF")] for row in rows} == {"-"}
