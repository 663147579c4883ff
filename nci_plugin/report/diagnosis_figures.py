"""The figures of stored diagnoses, each as PNG and SVG; nothing but binning and curves is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR
from nci_plugin.report.diagnosis_files import FOLDER, Stored, read_diagnoses, read_explanation
from nci_plugin.report.figures import COLOURS, MARKERS, SUFFIXES, new_figure, save
from nci_plugin.report.score_figures import (
    BINS,
    DASHES,
    GROUP_COLOURS,
    ID_COLOUR,
    SCORE_COLOURS,
    roc_figure,
    score_histograms,
    suptitle,
)

FEW_CLASSES = 30
"""Up to here classes get a bar or a label each, beyond a histogram."""

IMBALANCE = 2.0
"""Largest over smallest class from which on their sizes say something of the lengths of means and weights."""


def draw(results: Path) -> list[str]:
    """Write every figure of ``results/diagnosis``; returns their paths below ``results``, without suffix."""
    drawn = []
    for name, figure in figures(results):
        for suffix in SUFFIXES:
            save(figure, results / FOLDER / f"{name}{suffix}")
        drawn.append(f"{FOLDER}/{name}")
    return drawn


def figures(results: Path) -> Iterator[tuple[str, Figure]]:
    """Draw every figure of ``results/diagnosis`` from its files alone; yields its path there, without suffix."""
    for stored in read_diagnoses(results):
        for name, draw_one in FIGURES.items():
            figure = draw_one(stored)
            if figure is not None:
                yield f"{stored.name}/{name}", figure
    figure = explanation_figure(read_explanation(results))
    if figure is not None:
        yield "explanation", figure


# -------------------------------------------------------------------- classes


def class_figure(stored: Stored) -> Figure:
    """Variance within each class (NC1) and cosine of weight and centred mean (NC3): bars, or histograms of many."""
    collapse = stored.record["collapse"]
    figure = new_figure(7.6, 2.9)
    left, right = figure.subplots(1, 2)
    variances = [value for value in collapse["class_variances"] if value is not None]
    classes = [k for k, value in zip(collapse["classes"], collapse["class_variances"]) if value is not None]
    _per_class(left, classes, variances, "mean ||h - mu_k||² (feature units²)", COLOURS[NEAR])
    left.set_title("NC1: variance within classes", fontsize=9)
    _per_class(right, collapse["classes"], collapse["nc3_cosines"] or [], "cos(w_k, mu_k - mu_G)", COLOURS[FAR])
    right.set_title("NC3: weights along centred means", fontsize=9)
    if len(collapse["classes"]) <= FEW_CLASSES:
        right.axhline(1, color="0.3", linewidth=0.8, linestyle="--")
    suptitle(figure, stored, f"Collapse class by class, n = {collapse['num_samples']} training samples")
    return figure


def _per_class(axis: Axes, classes: Sequence[int], values: Sequence[float], label: str, colour: str) -> None:
    if len(classes) <= FEW_CLASSES:
        places = range(len(values))
        axis.bar(places, values, color=colour)
        axis.set_xticks(places, [str(k) for k in classes][: len(values)], fontsize=8)
        axis.set_xlabel("class")
        axis.set_ylabel(label, fontsize=8)
    else:
        axis.hist(values, BINS, color=colour)
        axis.set_xlabel(label, fontsize=8)
        axis.set_ylabel("classes")


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
    counts.hist(cosines, BINS if count > 6 else 12, color=COLOURS[NEAR])
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
    matrix = _square(stored.arrays["pair_distances"], len(classes), 0.0)[np.ix_(order, order)]
    figure = new_figure(4.4, 3.9)
    axis = figure.subplots()
    figure.colorbar(axis.imshow(matrix, cmap="viridis", vmin=0), ax=axis, label="||mu_k - mu_k'|| (feature units)")
    _class_ticks(axis, classes[order])
    suptitle(figure, stored, "Distances between class means, clustered")
    return figure


def _square(pairs: NDArray[Any], count: int, diagonal: float) -> NDArray[Any]:
    matrix = np.full((count, count), diagonal)
    rows, columns = np.triu_indices(count, 1)
    matrix[rows, columns] = matrix[columns, rows] = pairs
    return matrix


def _class_ticks(axis: Axes, classes: NDArray[Any]) -> None:
    if len(classes) <= FEW_CLASSES:
        names = [str(k) for k in classes.tolist()]
        axis.set_xticks(range(len(names)), names, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_xlabel("class", fontsize=8)
    axis.set_ylabel("class", fontsize=8)


def count_figure(stored: Stored) -> Figure | None:
    """Lengths of weights and class means against the class sizes; none where those differ by less than IMBALANCE."""
    collapse = stored.record["collapse"]
    if collapse["imbalance_ratio"] < IMBALANCE or collapse["nc2_weight_norms"] is None:
        return None
    figure = new_figure(7.6, 2.9)
    panels = {"||w_k||": ("nc2_weight_norms", "gof_slope_weights"), "||mu_k||": ("class_mean_norms", "gof_slope_means")}
    for axis, (label, (field, slope)) in zip(figure.subplots(1, 2), panels.items()):
        axis.loglog(collapse["class_counts"], collapse[field], "o", markersize=4, color=COLOURS[NEAR])
        axis.set_xlabel("training samples of the class n_k")
        axis.set_ylabel(f"{label} (feature units)" if "mu" in label else label)
        known = collapse[slope]
        axis.set_title("slope not defined" if known is None else f"slope {known:.3g} in log-log", fontsize=9)
        axis.tick_params(which="both", labelsize=7)
    suptitle(figure, stored, f"Class sizes, largest / smallest = {collapse['imbalance_ratio']:.3g}")
    return figure


def plane_figure(stored: Stored) -> Figure | None:
    """Samples in the plane of the first two principal directions of the class means."""
    means = stored.arrays.get("plane/means")
    if means is None or means.shape[1] < 2:
        return None
    points = {name.split("/", 2)[2]: array for name, array in stored.arrays.items() if name.startswith("plane/points/")}
    figure = new_figure(6.4, 4.6)
    axis = figure.subplots()
    order = sorted(points, key=lambda split: (CSID, FAR, NEAR, "id").index(split.split("/")[0]))
    for split in order:
        group = split.split("/")[0]
        n = stored.record["splits"][split]["n"]
        shown = f"{split}, {len(points[split])} of {n}" if len(points[split]) < n else f"{split}, n = {n}"
        axis.scatter(
            points[split][:, 0],
            points[split][:, 1],
            s=9,
            marker={"id": "o", CSID: "x", NEAR: "^", FAR: "s"}[group],
            linewidths=0.6,
            alpha=0.55,
            color=GROUP_COLOURS.get(group, ID_COLOUR),
            label=shown,
        )
    if len(means) <= FEW_CLASSES:
        for k, (x, y) in zip(stored.arrays["classes"], means):
            axis.annotate(
                str(k),
                (x, y),
                ha="center",
                va="center",
                fontsize=8,
                weight="bold",
                zorder=5,
                bbox={"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "black", "linewidth": 0.8},
            )
    else:
        axis.scatter(means[:, 0], means[:, 1], s=8, marker="+", color="black", zorder=5, label="class means")
    shares = [f"{100 * share:.0f} %" for share in stored.arrays["plane/explained"]]
    axis.set_xlabel(f"first principal direction ({shares[0]} of the means' variance)", fontsize=8)
    axis.set_ylabel(f"second principal direction ({shares[1]})", fontsize=8)
    axis.set_aspect("equal", adjustable="datalim")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    suptitle(figure, stored, "Features in the plane of the class means (circles), origin mu_G, feature units")
    return figure


# -------------------------------------------------------------------- layers, networks


def layer_figure(stored: Stored) -> Figure | None:
    """Collapse metrics, nearest-class-centre accuracy, norm and AUROC after every stage."""
    stages = stored.record.get("layers")
    if not stages:
        return None
    places = np.arange(len(stages))
    groups = list(stages[0]["auroc"])
    figure = new_figure(10.4, 5.6)
    axes = figure.subplots(2, 3, sharex=True)
    lines: list[tuple[Axes, str, dict[str, str]]] = [
        (axes[0, 0], "NC1 on train", {"Tr(S_W) / Tr(S_B)": "nc1_quotient", "CDNV": "nc1_cdnv"}),
        (
            axes[0, 1],
            "NC2 on train",
            {"equinorm": "nc2_equinorm_means", "equiangular": "nc2_equiangular_means", "ETF error": "nc2_etf_error"},
        ),
        (axes[0, 2], "nearest-class-centre accuracy, ID test", {"accuracy (share)": "nearest_centre_accuracy"}),
        (axes[1, 0], "feature norm on train", {"mean ||h||_2 (feature units)": "mean_norm_l2"}),
    ]
    colours, markers = list(SCORE_COLOURS.values()), ("o", "D", "^")
    for axis, title, fields in lines:
        for (label, field), colour, marker in zip(fields.items(), (colours[5], colours[3], colours[2]), markers):
            values = [np.nan if stage[field] is None else stage[field] for stage in stages]
            axis.plot(places, values, marker=marker, markersize=4, color=colour, label=label)
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    for axis, group in zip(axes[1, 1:], groups):
        for score in dict.fromkeys(name for stage in stages for name in stage["auroc"][group]):
            values = [stage["auroc"][group].get(score, np.nan) for stage in stages]
            axis.plot(
                places,
                values,
                marker="o",
                markersize=3,
                color=SCORE_COLOURS[score],
                linestyle=DASHES[score],
                label=score,
            )
        axis.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(f"AUROC, {group}-OOD (%)", fontsize=9)
        axis.legend(fontsize=7)
    for axis in axes[1, 1 + len(groups) :]:
        axis.axis("off")
    names = [stage["stage"].rpartition(".")[2] for stage in stages]
    for axis in axes[1]:
        axis.set_xticks(places, names, rotation=35, ha="right", fontsize=8)
    suptitle(
        figure, stored, f"Collapse stage by stage, n = {stored.record['collapse']['num_samples']} training samples"
    )
    return figure


def explanation_figure(explanation: Mapping[str, Any]) -> Figure | None:
    """AUROC of each property's score against its collapse metric, a point a network."""
    rows = [row for row in explanation["properties"] if None not in row["metric"] and None not in row["auroc"]]
    names = list(dict.fromkeys(row["property"] for row in rows))
    if not rows:
        return None
    figure = new_figure(2.35 * len(names) + 0.6, 3.2)
    for axis, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names):
        for row in (row for row in rows if row["property"] == name):
            group = row["group"]
            axis.plot(
                row["metric"], row["auroc"], MARKERS[group], color=COLOURS[group], markersize=5, label=f"{group}-OOD"
            )
        axis.set_title(f"{name}: {row['score']}", fontsize=9)
        axis.set_xlabel(f"{row['metric_name']}\n({row['at_collapse']:g} at collapse)", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.margins(0.2)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    figure.axes[0].set_ylabel("AUROC of the score (%)")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False
    )
    figure.suptitle(f"Collapse and detection, a point a network, n = {explanation['checkpoints']}", fontsize=10)
    return figure


FIGURES: dict[str, Callable[[Stored], Figure | None]] = {
    "classes": class_figure,
    "cosines": cosine_figure,
    "distances": distance_figure,
    "class_sizes": count_figure,
    "roc": roc_figure,
    "plane": plane_figure,
    "layers": layer_figure,
    **{f"scores_{group}": partial(score_histograms, group=group) for group in (CSID, NEAR, FAR)},
}
"""Figures of one network by file name."""
