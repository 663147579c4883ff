"""Figures for papers, in one style: AUROC, ROC curves and scores of chosen detectors, from stored results and scores.

Sizes are those of the printed page, 8 pt of a sans-serif font (14 pt on a slide); text stays text in SVG and PDF. There
is no title unless one is given: a caption says it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TEST
from nci_plugin.evaluation.drawn import DrawnFigure, draw_chance, draw_densities, draw_grid, short_names
from nci_plugin.evaluation.results import Result
from nci_plugin.metrics import roc_points
from nci_plugin.report.figures import DASHES, PALETTE, draw_auroc_points, legend_below, looks, written_as
from nci_plugin.report.score_figures import FPR_LABEL, TPR_LABEL, members
from nci_plugin.report.tables import detectors_by_near_auroc

WIDTHS = {"column": 3.3, "page": 6.9, "slide": 10.0}
"""Inches."""

FONTS = {"column": 8, "page": 8, "slide": 14}
DAGGER = "†"
"""It stands for the package of pytorch-ood's, as in `paper.figure`'s caption."""
GRID = np.linspace(0, 1, 2001)

Scores = Mapping[str, Mapping[str, Mapping[str, NDArray[np.floating]]]]
"""Detector, seed, split -> scores, larger = more ID."""


WRITTEN: Any = {"svg.fonttype": "none", "svg.hashsalt": "nci_plugin", "pdf.fonttype": 42}
"""Text stays text."""


class PaperFigure(DrawnFigure):
    """A figure of matplotlib that is written as papers want it: text as text, 300 dpi, nothing of the day in it.

    ``caption`` is what has to stand below it.
    """

    caption = ""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's."""
        form = options.get("format") or str(fname).rpartition(".")[2]
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        with rc_context(WRITTEN):
            super().savefig(fname, **{"dpi": 300, "metadata": dates.get(form), **options})


def style(size: str) -> AbstractContextManager[None]:
    """What figures are made in."""
    texts = ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize",
             "figure.titlesize")  # fmt: skip
    lines = {"axes.axisbelow": True, "axes.linewidth": 0.6, "lines.linewidth": 1.2, "grid.linewidth": 0.6}
    look: Any = {"font.family": "sans-serif", "grid.color": "0.93", **lines, **dict.fromkeys(texts, FONTS[size])}
    return rc_context(look)


def auroc_figure(results: Sequence[Result], size: str = "column") -> PaperFigure:
    """Near- and far-OOD AUROC of every detector on standard OOD, ± one std where there are several networks."""
    names = detectors_by_near_auroc(results, "ood")[::-1]
    inch = FONTS[size] / 72
    figure = PaperFigure(WIDTHS[size], 1.45 * inch * len(names) + 6 * inch)
    axis = figure.subplots()
    ends = draw_auroc_points(axis, results, "ood", names, markersize=0.45 * FONTS[size], elinewidth=0.8)
    axis.set_xlim(max(0.0, 5 * np.floor(min([100.0, *ends]) / 5)), 100)
    axis.set_yticks(range(len(names)), list(written_as(names, DAGGER).values()), parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    legend_under(figure, axis, size)
    return figure


def roc_figure(names: Sequence[str], scores: Scores, size: str = "column") -> PaperFigure:
    """ROC curves of some detectors, a panel for near and for far OOD, OOD positive.

    A curve is the mean at equal false-positive rate over the data sets of the group and over networks, so the area
    under it is the AUROC of the tables.
    """
    first = next(iter(scores[names[0]].values()))
    groups = [group for group in (NEAR, FAR) if members(first, group)]
    rows = len(groups) if size == "column" else 1
    width = WIDTHS[size]
    columns = len(groups) // rows
    inch, labels = FONTS[size] / 72, written_as(names, DAGGER)
    legend = 1.5 * inch * -(-len(names) // legend_columns(list(labels.values()), size))
    figure = PaperFigure(width, rows * 0.85 * width / columns + legend)
    axes = draw_grid(figure, len(groups), columns)
    for axis, group in zip(axes, groups):
        for name, colour, dashes in zip(names, PALETTE, DASHES):
            tpr = mean_curve(scores[name], group)
            axis.plot(100 * GRID, 100 * tpr, color=colour, linestyle=dashes, label=labels[name], clip_on=False)
        draw_chance(axis)
        axis.set(aspect="equal", title=f"{group}-OOD", xlabel=FPR_LABEL, ylabel=TPR_LABEL)
    legend_under(figure, axes[0], size)
    return figure


def mean_curve(by_seed: Mapping[str, Mapping[str, NDArray[np.floating]]], group: str) -> NDArray[np.floating]:
    """Share of OOD samples found at each share of `GRID` of ID samples called OOD, mean over data sets and networks."""
    curves = []
    for by_split in by_seed.values():
        for split in members(by_split, group):
            curves.append(np.interp(GRID, *roc_points(by_split[TEST], by_split[split])))
    mean: NDArray[np.floating] = np.mean(curves, axis=0)
    mean[0] = 0
    return mean


def score_figure(names: Sequence[str], scores: Scores, size: str = "column") -> PaperFigure:
    """Histograms of the scores of ID test samples and of every OOD set, a panel a detector, of the first network.

    Bins are shared by all that is in a panel, and hold all but the outermost 0.4 % of the scores.
    """
    columns = min(len(names), 1 if size == "column" else 3)
    rows = -(-len(names) // columns)
    width, inch = WIDTHS[size], FONTS[size] / 72
    by_name = {name: next(iter(scores[name].values())) for name in names}
    sets = [split for group in (NEAR, FAR) for split in members(by_name[names[0]], group)]
    shown = {split: short.replace("/", ": ") for split, short in short_names(sets).items()}
    legend = 1.5 * inch * -(-(len(sets) + 1) // legend_columns(list(shown.values()), size))
    figure = PaperFigure(width, rows * (0.45 * width / columns + 4 * inch) + legend)
    axes, titles = draw_grid(figure, len(names), columns), written_as(names, DAGGER)
    for axis, (name, by_split) in zip(axes, by_name.items()):
        drawn = {"ID test": by_split[TEST], **{label: by_split[split] for split, label in shown.items()}}
        draw_densities(axis, drawn, {shown[split]: look.line for split, look in looks(sets).items()})
        axis.set(title=titles[name], xlabel="score (larger = more ID)", ylabel="density")
        axis.xaxis.set_major_locator(MaxNLocator(4))
    legend_under(figure, axes[0], size)
    return figure


def written(figure: Figure, form: str) -> bytes:
    """The file of a figure, ``form`` pdf, svg or png; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form)
    return buffer.getvalue()


def legend_columns(labels: Sequence[str], size: str) -> int:
    """As many as fit the width: a letter takes about 0.6 of the font's height, a handle and its gap about 5 letters."""
    letters = max(map(len, labels)) + 6
    return max(1, min(len(labels), int(WIDTHS[size] / (letters * 0.6 * FONTS[size] / 72))))


def legend_under(figure: Figure, axis: Axes, size: str) -> None:
    _, labels = axis.get_legend_handles_labels()
    legend_below(figure, axis, legend_columns(labels, size), columnspacing=1.2)
