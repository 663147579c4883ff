"""The figures of stored diagnoses, each as PNG and SVG; nothing but binning and curves is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR
from nci_plugin.report.class_figures import (
    FEW_CLASSES,
    cosine_figure,
    count_figure,
    distance_figure,
    duality_figure,
    variance_figure,
)
from nci_plugin.report.diagnosis_files import FOLDER, Stored, read_diagnoses, read_explanation
from nci_plugin.report.figures import COLOURS, MARKERS, SUFFIXES, new_figure, save
from nci_plugin.report.score_figures import (
    DASHES,
    GROUP_COLOURS,
    ID_COLOUR,
    SCORE_COLOURS,
    roc_figure,
    score_histograms,
    suptitle,
)


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
    diagnoses = read_diagnoses(results)
    for stored in diagnoses:
        for name, draw_one in FIGURES.items():
            figure = draw_one(stored)
            if figure is not None:
                yield f"{stored.name}/{name}", figure
    figure = explanation_figure(read_explanation(results), diagnoses[0].record["benchmark"])
    if figure is not None:
        yield "explanation", figure


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


def explanation_figure(explanation: Mapping[str, Any], benchmark: str) -> Figure | None:
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
    figure.suptitle(
        f"Collapse and detection on {benchmark}, a point a network, n = {explanation['checkpoints']}", fontsize=10
    )
    return figure


FIGURES: dict[str, Callable[[Stored], Figure | None]] = {
    "variances": variance_figure,
    "duality": duality_figure,
    "cosines": cosine_figure,
    "distances": distance_figure,
    "class_sizes": count_figure,
    "roc": roc_figure,
    "plane": plane_figure,
    "layers": layer_figure,
    **{f"scores_{group}": partial(score_histograms, group=group) for group in (CSID, NEAR, FAR)},
}
"""Figures of one network by file name."""
