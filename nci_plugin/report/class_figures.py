"""Figures of one network's classes: how each has collapsed, and how their means and weights stand to each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.spatial.distance import squareform

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.collapse import METRICS, CollapseMetrics
from nci_plugin.collapse.imbalance import IMBALANCE
from nci_plugin.diagnosis.record import DiagnosisRecord
from nci_plugin.evaluation.drawn import BINS, DrawnFigure, short_names
from nci_plugin.report.cells import number
from nci_plugin.report.diagnosis_files import Stored
from nci_plugin.report.figures import COLOURS, in_style, legend_below
from nci_plugin.report.score_figures import suptitle

FEW_CLASSES = 30
"""Up to here every class has a bar or a label."""

FEW_NUMBERS = 8
"""Up to here there is room for the number in every cell of one of two matrices."""

CLASS_LETTERS = 16
"""Of a class's name on an axis."""

SOME_LABELS = 10
"""Of more classes, how many a side of a matrix has a label for, at most."""

MEAN_LINE: dict[str, Any] = {"color": "0.2", "linewidth": 0.9, "linestyle": ":"}
IDEAL_LINE: dict[str, Any] = {"color": "0.3", "linewidth": 0.8, "linestyle": "--"}


@in_style
def variance_figure(stored: Stored) -> Figure | None:
    """Variance within each class (NC1): a histogram over classes, and few classes one by one beside it."""
    collapse = stored.record.collapse
    known = {k: v for k, v in zip(collapse.classes, collapse.class_variances or ()) if v is not None}
    if not known:
        return None
    values = list(known.values())
    figure = DrawnFigure(7.6 if len(known) <= FEW_CLASSES else 6.4, 2.9)
    axes = _class_axes(figure, stored, list(known), "variance within the class (feature units²)")
    _count(axes, values, _bins(values), color=COLOURS[NEAR], edgecolor="white")
    if len(axes) > 1:
        axes[0].bar(range(len(known)), values, color=COLOURS[NEAR])
    _mark(axes, float(np.mean(values)), **MEAN_LINE)
    nc1 = f"NC1 = {number(collapse.nc1_quotient)}: variance within classes (line: mean)"
    suptitle(figure, stored, f"{nc1}, n = {collapse.num_samples} training samples")
    return figure


@in_style
def duality_figure(stored: Stored) -> Figure | None:
    """Cosine of each class's weight and mean (NC3), and beside it the uncentred one, which is not NC3."""
    collapse = stored.record.collapse
    if collapse.nc3_cosines is None or collapse.uncentred_cosines is None:
        return None
    figure = DrawnFigure(8.6 if len(collapse.classes) <= FEW_CLASSES else 6.4, 3.3)
    axes = _class_axes(figure, stored, collapse.classes, "cosine of weight and class mean")
    cosines = {
        "weight and centred mean: NC3": (np.array(collapse.nc3_cosines), COLOURS[NEAR], "-"),
        "weight and uncentred mean: not NC3": (np.array(collapse.uncentred_cosines), COLOURS[FAR], "--"),
    }
    both = np.concatenate([values for values, _, _ in cosines.values()])
    grid = np.histogram_bin_edges(both, _bins(collapse.classes)).tolist()  # one for both, so that their bars compare
    places, width = np.arange(len(collapse.classes)), 0.4
    for side, (label, (values, colour, line)) in zip((-1, 1), cosines.items()):
        _count(axes, values, grid, color=colour, histtype="step", linewidth=1.4, linestyle=line, label=label)
        if len(axes) > 1:
            axes[0].bar(places + side * width / 2, values, width, color=colour, label=label)
        _mark(axes, float(values.mean()), **{**MEAN_LINE, "color": colour})
    _mark(axes, 1, label="NC3 at collapse", **IDEAL_LINE)
    if len(axes) > 1:
        axes[0].axhline(0, color="0.3", linewidth=0.8)
    legend_below(figure, axes[0], 3)
    mean = f"mean cosine {number(collapse.nc3_cosine_mean)}"
    suptitle(figure, stored, f"NC3, {mean} (dotted: means), n = {collapse.num_samples} training samples")
    return figure


@in_style
def cosine_figure(stored: Stored) -> Figure | None:
    """Cosines of all pairs of centred class means: K x K, classes ordered as distances are, and their histogram.

    The simplex ETF stands beside it where there is one, for K <= P + 1.
    """
    if "pair_cosines" not in stored.arrays:
        return None
    classes, cosines = stored.arrays["classes"], stored.arrays["pair_cosines"]
    order = stored.arrays.get("class_order", np.arange(len(classes)))
    target, reachable = -1 / (len(classes) - 1), stored.record.collapse.etf_exists
    shown = {"measured": cosines, **({"simplex ETF": np.full_like(cosines, target)} if reachable else {})}
    figure = DrawnFigure(3.4 * len(shown) + 3.8, 3.6)
    *matrices, counts = figure.subplots(1, len(shown) + 1)
    for axis, (name, values) in zip(matrices, shown.items()):
        matrix = (squareform(values) + np.eye(len(classes)))[np.ix_(order, order)]
        numbers = ".2f" if values is cosines and len(classes) <= FEW_NUMBERS else ""
        drawn = _matrix(axis, stored, matrix, classes[order], numbers, vmin=-1, vmax=1, cmap="PuOr_r")
        axis.set_title(name)
    figure.colorbar(drawn, ax=matrices, shrink=0.8, label="cosine of two centred class means")
    counts.hist(cosines, _bins(cosines), color=COLOURS[NEAR], edgecolor="white")
    if reachable:
        counts.axvline(target, color=COLOURS[FAR], linestyle="--")
    etf = f"dashed: ETF, {target:.3g}" if reachable else "no ETF: K > P + 1"
    counts.set(title=f"all pairs; {etf}", xlabel="cosine of two centred class means", ylabel="pairs")
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    suptitle(figure, stored, f"NC2: angles between centred class means, clustered, n = {len(cosines)} pairs")
    return figure


@in_style
def distance_figure(stored: Stored) -> Figure | None:
    """Distances of all pairs of class means, classes ordered so that close ones are neighbours."""
    if "class_order" not in stored.arrays:
        return None
    order, classes = stored.arrays["class_order"], stored.arrays["classes"]
    pairs = stored.arrays["pair_distances"]
    figure = DrawnFigure(4.8, 4.2)
    axis = figure.subplots()
    matrix = squareform(pairs)[np.ix_(order, order)]
    numbers = ".2g" if len(classes) <= SOME_LABELS else ""
    drawn = _matrix(axis, stored, matrix, classes[order], numbers, cmap="viridis", vmin=0)
    figure.colorbar(drawn, ax=axis, label="distance of two class means (feature units)")
    suptitle(figure, stored, f"Distances between class means, clustered, n = {len(pairs)} pairs")
    return figure


@in_style
def count_figure(stored: Stored) -> Figure | None:
    """Lengths and angles of weights and class means against class sizes; None where those differ below IMBALANCE."""
    collapse = stored.record.collapse
    ratio, sizes = collapse.imbalance_ratio, collapse.class_counts
    if ratio < IMBALANCE:
        return None
    figure = DrawnFigure(10.4, 3.1)
    of_weights, of_means, angles = figure.subplots(1, 3)
    _against_counts(of_weights, collapse, "nc2_weight_norms", "gof_slope_weights", "length of the class's weight")
    mean_length = "length of the class mean (feature units)"
    _against_counts(of_means, collapse, "class_mean_norms", "gof_slope_means", mean_length)
    for label, field, marker, colour in (
        ("weights", "smallest_angles_weights", "o", COLOURS[NEAR]),
        ("centred means", "smallest_angles_means", "D", COLOURS[FAR]),
    ):
        if collapse.values[field] is not None:
            angles.semilogx(sizes, collapse.values[field], marker, markersize=4, color=colour, label=label)
    etf = METRICS["smallest_angle_means"].at_collapse(len(sizes), collapse.num_features)
    if etf is not None:
        angles.axhline(etf, label=f"ETF, {etf:.1f}°", **IDEAL_LINE)
    angles.set_ylim(bottom=0)
    angles.set(title="smallest angle to another class", ylabel="degrees")
    angles.legend()
    for axis in figure.axes:
        axis.set_xlabel("training samples of the class")
    title = f"Class sizes, largest / smallest = {ratio:.3g}, n = {collapse.num_samples} training samples"
    suptitle(figure, stored, title)
    return figure


def _against_counts(axis: Axes, collapse: CollapseMetrics, field: str, slope_of: str, label: str) -> None:
    """Lengths against class sizes on logarithmic scales, with the fitted line: its slope and the means of both."""
    sizes, lengths, slope = collapse.class_counts, collapse.values[field], collapse.values[slope_of]
    axis.set(title="slope not defined", ylabel=label)
    if lengths is None:
        return
    axis.loglog(sizes, lengths, "o", markersize=4, color=COLOURS[NEAR])
    if slope is not None:
        ends = np.log([min(sizes), max(sizes)])
        middle, height = np.log(sizes).mean(), np.log(lengths).mean()
        axis.plot(np.exp(ends), np.exp(height + slope * (ends - middle)), color="0.3", linewidth=0.8)
        axis.set_title(f"slope {slope:.3g} in log-log")


def _class_axes(figure: Figure, stored: Stored, classes: Sequence[int], label: str) -> list[Axes]:
    """Axes for a value of each class: few classes one by one along the bottom, and last of all how many have it."""
    if len(classes) > FEW_CLASSES:
        counts = figure.subplots()
        counts.set(xlabel=label, ylabel="classes")
        return [counts]
    bars, counts = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    names = labels(stored.record, classes)
    bars.set_xticks(range(len(classes)), names, rotation=turned(names))
    bars.set(xlabel="class", ylabel=label)
    counts.set_xlabel("classes")
    counts.xaxis.set_major_locator(MaxNLocator(integer=True))
    return [bars, counts]


def _count(axes: Sequence[Axes], values: Any, bins: Any, **style: Any) -> None:
    """The histogram of `_class_axes`, which lies beside bars."""
    axes[-1].hist(values, bins, orientation="horizontal" if len(axes) > 1 else "vertical", **style)


def _mark(axes: Sequence[Axes], value: float, **style: Any) -> None:
    """A value as a line in all `_class_axes`."""
    for axis in axes:
        (axis.axhline if len(axes) > 1 else axis.axvline)(value, **style)


def _bins(values: Sequence[float] | NDArray[Any]) -> int:
    """Bins of a histogram: about twice as many as the square root of the number of values."""
    return int(np.clip(2 * math.sqrt(len(values)), 5, BINS))


def labels(record: DiagnosisRecord, classes: Iterable[int]) -> list[str]:
    """What classes are called on an axis: of a long name the beginning and the end, which leave room for the figure."""
    names = [record.name_of(k) for k in classes]
    short = short_names(names, CLASS_LETTERS)
    return [short[name] for name in names]


def turned(names: Sequence[str]) -> int:
    """Degrees by which names along the bottom are turned: words would run into each other."""
    return 90 if any(len(name) > 3 for name in names) else 0


def _matrix(axis: Axes, stored: Stored, values: NDArray[Any], classes: NDArray[Any], numbers: str, **style: Any) -> Any:
    """A K x K matrix with the classes' names along both sides, of many only every n-th; returns its image.

    ``numbers`` is the format of those in the cells, empty for none.
    """
    few = len(classes) <= FEW_CLASSES
    places = np.arange(0, len(classes), 1 if few else -(-len(classes) // SOME_LABELS))
    names = labels(stored.record, classes[places].tolist())
    axis.set_xticks(places, names, fontsize=7, rotation=turned(names) if len(classes) <= SOME_LABELS else 90)
    axis.set_yticks(places, names, fontsize=7)
    axis.set(xlabel="class", ylabel="class")
    image = axis.imshow(values, **style)
    if numbers:
        write_numbers(axis, image, values, numbers)
    return image


def write_numbers(axis: Axes, image: Any, values: NDArray[Any], form: str) -> None:
    """Write the finite numbers of a matrix into its image's cells, in white where they are dark."""
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = image.cmap(image.norm(value))[:3] @ np.array([0.3, 0.6, 0.1]) < 0.5
            colour = "white" if dark else "black"
            axis.text(column, row, f"{value:{form}}", ha="center", va="center", fontsize=6.5, color=colour)
