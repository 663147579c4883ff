"""Figures of one network's classes: how each has collapsed, and how their means and weights stand to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.collapse.means import IMBALANCE
from nci_plugin.report.diagnosis_files import Stored
from nci_plugin.report.figures import COLOURS, new_figure
from nci_plugin.report.score_figures import BINS, suptitle

FEW_CLASSES = 30
"""Up to here every class has a bar or a label, beyond only a share of them."""

Collapse = Mapping[str, Any]


def variance_figure(stored: Stored) -> Figure | None:
    """Variance within each class (NC1): a histogram over classes, and few classes one by one beside it."""
    collapse = stored.record["collapse"]
    known = {k: v for k, v in zip(collapse["classes"], collapse["class_variances"]) if v is not None}
    if not known:
        return None
    label, values = "mean ||h - mu_k||² (feature units²)", list(known.values())
    if len(known) <= FEW_CLASSES:
        figure = new_figure(7.6, 2.9)
        bars, counts = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
        bars.bar(range(len(known)), values, color=COLOURS[NEAR])
        bars.set_xticks(range(len(known)), [str(k) for k in known], fontsize=8)
        bars.set_xlabel("class")
        bars.set_ylabel(label, fontsize=8)
        counts.hist(values, _bins(values), color=COLOURS[NEAR], edgecolor="white", orientation="horizontal")
        counts.set_xlabel("classes")
        counts.xaxis.get_major_locator().set_params(integer=True)
    else:
        figure = new_figure(5.2, 2.9)
        axis = figure.subplots()
        axis.hist(values, _bins(values), color=COLOURS[NEAR], edgecolor="white")
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel("classes")
    suptitle(figure, stored, f"NC1: variance within classes, n = {collapse['num_samples']} training samples")
    return figure


def duality_figure(stored: Stored) -> Figure | None:
    """Cosine of each class's weight and mean (NC3), and beside it the uncentred one, which is not NC3."""
    collapse = stored.record["collapse"]
    if collapse["nc3_cosines"] is None or collapse["uncentred_cosines"] is None:
        return None
    both = {
        "cos(w_k, mu_k - mu_G), centred: NC3": (collapse["nc3_cosines"], "o", COLOURS[NEAR]),
        "cos(w_k, mu_k), uncentred: not NC3": (collapse["uncentred_cosines"], "D", COLOURS[FAR]),
    }
    figure = new_figure(6.4, 3.1)
    axis = figure.subplots()
    for label, (cosines, marker, colour) in both.items():
        if len(cosines) <= FEW_CLASSES:
            axis.plot(range(len(cosines)), cosines, marker, color=colour, markersize=5, label=label)
        else:
            axis.hist(cosines, _bins(cosines), color=colour, histtype="step", linewidth=1.4, label=label)
    if len(collapse["classes"]) <= FEW_CLASSES:
        axis.axhline(1, color="0.3", linewidth=0.8, linestyle="--", label="NC3 at collapse")
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        axis.set_xticks(range(len(collapse["classes"])), [str(k) for k in collapse["classes"]], fontsize=8)
        axis.set_xlabel("class")
        axis.set_ylabel("cosine")
    else:
        axis.axvline(1, color="0.3", linewidth=0.8, linestyle="--", label="NC3 at collapse")
        axis.set_xlabel("cosine")
        axis.set_ylabel("classes")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    suptitle(figure, stored, f"NC3: weights along class means, n = {collapse['num_samples']} training samples")
    return figure


def cosine_figure(stored: Stored) -> Figure | None:
    """Cosines of all pairs of centred class means: K x K beside the simplex ETF's, and their histogram."""
    if "pair_cosines" not in stored.arrays:
        return None
    classes, cosines = stored.arrays["classes"], stored.arrays["pair_cosines"]
    count = len(classes)
    target = -1 / (count - 1)
    figure = new_figure(9.6, 3.2)
    measured, ideal, counts = figure.subplots(1, 3)
    for axis, values, name in ((measured, cosines, "measured"), (ideal, np.full_like(cosines, target), "simplex ETF")):
        drawn = axis.imshow(_square(values, count, 1.0), vmin=-1, vmax=1, cmap="PuOr_r")
        axis.set_title(name, fontsize=9)
        _class_ticks(axis, classes)
    figure.colorbar(drawn, ax=[measured, ideal], label="cosine", shrink=0.8)
    counts.hist(cosines, _bins(cosines), color=COLOURS[NEAR], edgecolor="white")
    counts.axvline(target, color=COLOURS[FAR], linestyle="--")
    counts.set_title(f"all pairs; dashed: ETF, -1/(K-1) = {target:.3g}", fontsize=9)
    counts.set_xlabel("cosine of a pair of centred means")
    counts.set_ylabel("pairs")
    suptitle(figure, stored, f"NC2: angles between centred class means, n = {len(cosines)} pairs")
    return figure


def distance_figure(stored: Stored) -> Figure | None:
    """Distances of all pairs of class means, classes ordered so that close ones are neighbours."""
    if "class_order" not in stored.arrays:
        return None
    order, classes = stored.arrays["class_order"], stored.arrays["classes"]
    pairs = stored.arrays["pair_distances"]
    matrix = _square(pairs, len(classes), 0.0)[np.ix_(order, order)]
    figure = new_figure(4.8, 4.2)
    axis = figure.subplots()
    drawn = axis.imshow(matrix, cmap="viridis", vmin=0)
    figure.colorbar(drawn, ax=axis, label="||mu_k - mu_k'|| (feature units)")
    _class_ticks(axis, classes[order])
    suptitle(figure, stored, f"Distances between class means, clustered, n = {len(pairs)} pairs")
    return figure


def count_figure(stored: Stored) -> Figure | None:
    """Lengths and angles of weights and class means against class sizes; None where those differ below IMBALANCE."""
    collapse = stored.record["collapse"]
    if collapse["imbalance_ratio"] < IMBALANCE:
        return None
    figure = new_figure(10.4, 3.1)
    of_weights, of_means, angles = figure.subplots(1, 3)
    _against_counts(of_weights, collapse, "nc2_weight_norms", "gof_slope_weights", "||w_k||")
    _against_counts(of_means, collapse, "class_mean_norms", "gof_slope_means", "||mu_k|| (feature units)")
    for label, field, marker, colour in (
        ("w_k", "smallest_angles_weights", "o", COLOURS[NEAR]),
        ("mu_k - mu_G", "smallest_angles_means", "D", COLOURS[FAR]),
    ):
        if collapse[field] is not None:
            angles.semilogx(collapse["class_counts"], collapse[field], marker, markersize=4, color=colour, label=label)
    if len(collapse["classes"]) > 1:
        etf = math.degrees(math.acos(-1 / (len(collapse["classes"]) - 1)))
        angles.axhline(etf, color="0.3", linewidth=0.8, linestyle="--", label=f"ETF, {etf:.1f}°")
    angles.set_ylim(bottom=0)
    angles.set_ylabel("degrees")
    angles.set_title("smallest angle to another class", fontsize=9)
    angles.legend(fontsize=7)
    for axis in figure.axes:
        axis.set_xlabel("training samples of the class n_k", fontsize=8)
        axis.tick_params(which="both", labelsize=7)
    ratio, count = collapse["imbalance_ratio"], collapse["num_samples"]
    suptitle(figure, stored, f"Class sizes, largest / smallest = {ratio:.3g}, n = {count} training samples")
    return figure


def _against_counts(axis: Axes, collapse: Collapse, field: str, slope: str, label: str) -> None:
    """Lengths against class sizes on logarithmic scales, with the fitted line: its slope and the means of both."""
    axis.set_ylabel(label)
    axis.set_title("slope not defined", fontsize=9)
    if collapse[field] is None:
        return
    axis.loglog(collapse["class_counts"], collapse[field], "o", markersize=4, color=COLOURS[NEAR])
    if collapse[slope] is not None:
        ends = np.log([min(collapse["class_counts"]), max(collapse["class_counts"])])
        middle, height = np.log(collapse["class_counts"]).mean(), np.log(collapse[field]).mean()
        axis.plot(np.exp(ends), np.exp(height + collapse[slope] * (ends - middle)), color="0.3", linewidth=0.8)
        axis.set_title(f"slope {collapse[slope]:.3g} in log-log", fontsize=9)


def _bins(values: Sequence[float] | NDArray[Any]) -> int:
    """Bins of a histogram: about twice as many as the square root of the number of values."""
    return int(np.clip(2 * math.sqrt(len(values)), 5, BINS))


def _square(pairs: NDArray[Any], count: int, diagonal: float) -> NDArray[Any]:
    matrix = np.full((count, count), diagonal)
    rows, columns = np.triu_indices(count, 1)
    matrix[rows, columns] = matrix[columns, rows] = pairs
    return matrix


def _class_ticks(axis: Axes, classes: NDArray[Any]) -> None:
    """Name the classes along both sides of a matrix; of many only every n-th."""
    places = np.arange(0, len(classes), -(-len(classes) // FEW_CLASSES))
    names = [str(k) for k in classes[places].tolist()]
    axis.set_xticks(places, names, fontsize=7, rotation=90 if len(classes) > FEW_CLASSES else 0)
    axis.set_yticks(places, names, fontsize=7)
    axis.set_xlabel("class", fontsize=8)
    axis.set_ylabel("class", fontsize=8)
