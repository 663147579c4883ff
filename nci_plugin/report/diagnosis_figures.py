"""The figures of stored diagnoses, each as PNG and SVG; nothing but binning and curves is computed here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR
from nci_plugin.collapse.registry import STAGES, columns
from nci_plugin.diagnosis.explanation import Explanation, ideal_text
from nci_plugin.report import class_figures
from nci_plugin.report.class_figures import FEW_CLASSES
from nci_plugin.report.diagnosis_files import FOLDER, Stored, read_diagnoses, read_explanation
from nci_plugin.report.figures import COLOURS, MARKERS, SUFFIXES, legend_below, new_figure, save
from nci_plugin.report.score_figures import (
    DASHES,
    GROUP_COLOURS,
    ID_COLOUR,
    SCORE_COLOURS,
    roc_figure,
    score_histograms,
    suptitle,
)

PLANE_MARKERS = {CSID: "x+1", FAR: "sDP*", NEAR: "^v<>", "id": "o"}
"""Group of splits -> the markers of its sets in the plane, in turn, in the order of drawing."""

SHADES = (1.0, 0.6, 0.8, 0.4)
"""How much of its group's colour a set has, in turn; the rest is black."""

STAGE_STYLES = [(list(SCORE_COLOURS.values())[place], marker) for place, marker in ((5, "o"), (3, "D"), (2, "^"))]


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
    figure = explanation_figure(read_explanation(results), diagnoses[0].record.benchmark)
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
    drawn_sets: dict[str, int] = {}  # of each group so far
    for split in sorted(points, key=lambda split: list(PLANE_MARKERS).index(split.split("/")[0])):
        group, drawn, n = split.split("/")[0], len(points[split]), stored.record.splits[split].n
        turn = drawn_sets[group] = drawn_sets.get(group, -1) + 1
        markers, shade = PLANE_MARKERS[group], SHADES[turn % len(SHADES)]
        colour = shade * np.array(to_rgb(GROUP_COLOURS.get(group, ID_COLOUR)))
        size = f"{drawn} of {n}" if drawn < n else f"n = {n}"
        axis.scatter(
            points[split][:, 0], points[split][:, 1], s=12, marker=markers[turn % len(markers)], linewidths=0.6,
            alpha=0.6, color=[colour], label=f"{split}, {size}",
        )  # fmt: skip
    if len(means) <= FEW_CLASSES:
        circle = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": "black", "linewidth": 0.8}
        for k, place in zip(stored.arrays["classes"], means):
            axis.annotate(str(k), place, ha="center", va="center", fontsize=8, weight="bold", zorder=5, bbox=circle)
    else:
        axis.scatter(means[:, 0], means[:, 1], s=8, marker="+", color="black", zorder=5, label="class means")
    shares = [f"{100 * share:.0f} %" for share in stored.arrays["plane/explained"]]
    axis.set_xlabel(f"first principal direction ({shares[0]} of the means' variance)", fontsize=8)
    axis.set_ylabel(f"second principal direction ({shares[1]})", fontsize=8)
    axis.set_aspect("equal", adjustable="datalim")
    legend_below(figure, axis)
    suptitle(figure, stored, "Features in the plane of the class means (circles), origin mu_G, feature units")
    return figure


def layer_figure(stored: Stored) -> Figure | None:
    """Collapse metrics, nearest-class-centre accuracy, norm and AUROC after every stage."""
    stages = stored.record.layers
    if not stages:
        return None
    panels: dict[str, dict[str, str]] = {}
    for name, metric in columns(STAGES).items():
        panels.setdefault(f"{metric.aspect} on train", {})[name] = metric.symbol
    panels["nearest-class-centre accuracy, ID test"] = {"nearest_centre_accuracy": "accuracy (share)"}
    panels["directional collapse, ID test"] = {"within_cosine": "mean cosine within classes"}
    groups, places = list(stages[0].auroc), np.arange(len(stages))
    width = 3
    rows = -(-(len(panels) + len(groups)) // width)
    figure = new_figure(10.4, 2.8 * rows)
    axes = figure.subplots(rows, width, sharex=True, squeeze=False).ravel()
    for axis, (title, fields) in zip(axes, panels.items()):
        for (field, label), (colour, marker) in zip(fields.items(), itertools.cycle(STAGE_STYLES)):
            values = [np.nan if (value := stage.values.get(field)) is None else value for stage in stages]
            axis.plot(places, values, marker=marker, markersize=4, color=colour, label=label)
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
    for axis, group in zip(axes[len(panels) :], groups):
        for score in dict.fromkeys(name for stage in stages for name in stage.auroc[group]):
            values = [stage.auroc[group].get(score, np.nan) for stage in stages]
            style = {"color": SCORE_COLOURS[score], "linestyle": DASHES[score]}
            axis.plot(places, values, marker="o", markersize=3, label=score, **style)
        axis.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(f"AUROC, {group}-OOD (%)", fontsize=9)
    for axis in axes[: len(panels) + len(groups)]:
        axis.legend(fontsize=7)
    for axis in axes[len(panels) + len(groups) :]:
        axis.axis("off")
    names = [stage.stage.rpartition(".")[2] for stage in stages]
    for axis in axes[-width:]:
        axis.set_xticks(places, names, rotation=35, ha="right", fontsize=8)
    suptitle(figure, stored, f"Collapse stage by stage, n = {stored.record.collapse.num_samples} training samples")
    return figure


def explanation_figure(explanation: Explanation, benchmark: str) -> Figure | None:
    """AUROC of each property's score against its collapse metric, a point a network."""
    rows = [row for row in explanation.properties if None not in row.metric and None not in row.auroc]
    names = list(dict.fromkeys(row.property for row in rows))
    if not rows:
        return None
    figure = new_figure(2.35 * len(names) + 0.6, 3.2)
    for axis, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names):
        mine = [row for row in rows if row.property == name]
        for row in mine:
            style = {"color": COLOURS[row.group], "label": f"{row.group}-OOD"}
            axis.plot(row.metric, row.auroc, MARKERS[row.group], markersize=5, **style)
        axis.set_title(f"{name}: {mine[0].score}", fontsize=9)
        axis.set_xlabel(f"{mine[0].metric_name}\n({ideal_text(mine[0].at_collapse)})", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.margins(0.2)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    figure.axes[0].set_ylabel("AUROC of the score (%)")
    legend_below(figure, figure.axes[0])
    title = f"Collapse and detection on {benchmark}, a point a network, n = {explanation.checkpoints}"
    figure.suptitle(title, fontsize=10)
    return figure


FIGURES: dict[str, Callable[[Stored], Figure | None]] = {
    "variances": class_figures.variance_figure,
    "duality": class_figures.duality_figure,
    "cosines": class_figures.cosine_figure,
    "distances": class_figures.distance_figure,
    "class_sizes": class_figures.count_figure,
    "roc": roc_figure,
    "plane": plane_figure,
    "layers": layer_figure,
    **{f"scores_{group}": partial(score_histograms, group=group) for group in (CSID, NEAR, FAR)},
}
"""Figures of one network by file name."""
