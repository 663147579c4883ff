"""The figures of stored diagnoses, each as PNG and SVG; nothing but binning and curves is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, Split
from nci_plugin.diagnosis.explanation import Explanation, ideal_text
from nci_plugin.evaluation.drawn import DrawnFigure, draw_grid
from nci_plugin.report import class_figures
from nci_plugin.report.class_figures import FEW_CLASSES, labels, turned
from nci_plugin.report.diagnosis_files import FOLDER, Stored, read_diagnoses, read_explanation
from nci_plugin.report.figures import COLOURS, MARKERS, in_style, legend_below, looks, save_all
from nci_plugin.report.names import display_name
from nci_plugin.report.panels import draw_panels, label_stages, stage_panels
from nci_plugin.report.score_figures import roc_figure, score_histograms, suptitle

DRAWN_FIRST = (CSID, FAR, NEAR, "id")
"""The order of groups in the plane: what is to be seen best comes last."""


def draw(results: Path) -> list[str]:
    """Write every figure of ``results/diagnosis``; returns their paths below ``results``, without suffix."""
    return save_all(((f"{FOLDER}/{name}", figure) for name, figure in figures(results)), results)


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


@in_style
def plane_figure(stored: Stored) -> Figure | None:
    """Samples in the plane of the first two principal directions of the class means."""
    means = stored.arrays.get("plane/means")
    if means is None or means.shape[1] < 2:
        return None
    points = {name.split("/", 2)[2]: array for name, array in stored.arrays.items() if name.startswith("plane/points/")}
    figure = DrawnFigure(6.4, 4.6)
    axis = figure.subplots()
    look = looks(points)
    for split in sorted(points, key=lambda split: DRAWN_FIRST.index(Split.parse(split).group)):
        drawn, n = len(points[split]), stored.record.splits[split].n
        size = f"{drawn} of {n}" if drawn < n else f"n = {n}"
        axis.scatter(
            points[split][:, 0], points[split][:, 1], s=12, marker=look[split].marker, linewidths=0.6,
            alpha=0.6, color=[look[split].colour], label=f"{split}, {size}",
        )  # fmt: skip
    if len(means) <= FEW_CLASSES:
        names = labels(stored.record, stored.arrays["classes"].tolist())
        marks, shape = ("boxes", "round") if turned(names) else ("circles", "circle")
        box = {"boxstyle": f"{shape},pad=0.2", "facecolor": "white", "edgecolor": "black", "linewidth": 0.8}
        for name, place in zip(names, means):
            axis.annotate(name, place, ha="center", va="center", fontsize=8, weight="bold", zorder=5, bbox=box)
    else:
        marks = "dots"
        axis.scatter(means[:, 0], means[:, 1], s=6, marker=".", color="0.25", zorder=0, label="class means")
    shares = [f"{100 * share:.0f} %" for share in stored.arrays["plane/explained"]]
    first = f"first principal direction ({shares[0]} of the means' variance)"
    axis.set(xlabel=first, ylabel=f"second principal direction ({shares[1]})")
    axis.set_aspect("equal", adjustable="datalim")
    legend_below(figure, axis)
    suptitle(figure, stored, f"Features in the plane of the class means ({marks}), about their mean, in feature units")
    return figure


@in_style
def layer_figure(stored: Stored) -> Figure | None:
    """Collapse metrics, norm, accuracy of the nearest class mean and AUROC after every stage."""
    stages = stored.record.layers
    if not stages:
        return None
    panels, places = stage_panels([stages]), range(len(stages))
    across = 4
    figure = DrawnFigure(11.0, 2.4 * -(-len(panels) // across) + 1.1)
    axes, last = draw_panels(figure, panels, places, across)
    label_stages(axes, last, stages)
    suptitle(figure, stored, f"Collapse stage by stage, n = {stored.record.collapse.num_samples} training samples")
    return figure


@in_style
def explanation_figure(explanation: Explanation, benchmark: str) -> Figure | None:
    """AUROC of each property's score against its collapse metric, a point a network."""
    rows = [row for row in explanation.properties if None not in row.metric and None not in row.auroc]
    names = list(dict.fromkeys(row.property for row in rows))
    if not rows:
        return None
    figure = DrawnFigure(2.35 * len(names) + 0.6, 3.2)
    axes = draw_grid(figure, len(names), len(names), sharey=True)
    for axis, name in zip(axes, names):
        mine = [row for row in rows if row.property == name]
        for row in mine:
            points: Any = row.metric, row.auroc  # without None
            colour, mark = COLOURS[row.group], MARKERS[row.group]
            axis.plot(*points, mark, markersize=5, color=colour, label=f"{row.group}-OOD")
        axis.set_title(f"{name}: {display_name(mine[0].score)}")
        axis.set_xlabel(f"{mine[0].metric_name}\n({ideal_text(mine[0].at_collapse)})", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.margins(0.2)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.grid()
    low, high = axes[0].get_ylim()  # of all panels
    axes[0].set(ylim=(max(low, 0.0), min(high, 100.5)), ylabel="AUROC of the score (%)")
    legend_below(figure, axes[0])
    figure.suptitle(f"Collapse and detection on {benchmark}, a point a network, n = {explanation.checkpoints}")
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
