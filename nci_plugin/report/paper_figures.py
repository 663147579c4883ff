"""Figures for papers, in one style: AUROC, ROC curves and scores of chosen detectors, from stored results and scores.

Sizes are those of the printed page, 8 pt of a sans-serif font (14 pt on a slide); text stays text in SVG and PDF. There
is no title unless one is given: a caption says it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from nci_plugin.benchmarks.benchmark import FAR, GROUP_ROWS, NEAR, TEST
from nci_plugin.evaluation.drawn import DrawnFigure
from nci_plugin.evaluation.results import Result
from nci_plugin.report.figures import COLOURS, DASHES, ID_COLOUR, MARKERS, PALETTE, looks
from nci_plugin.report.names import display_name
from nci_plugin.report.score_figures import members
from nci_plugin.report.tables import detectors_by_near_auroc

WIDTHS = {"column": 3.3, "page": 6.9, "slide": 10.0}
"""Inches."""

FONTS = {"column": 8, "page": 8, "slide": 14}
DAGGER = "†"
BINS = 40
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
        for text in self.findobj(Text):
            if "$" in text.get_text():  # of a name: no text here is a formula
                text.set_parse_math(False)
        form = options.get("format") or str(fname).rpartition(".")[2]
        dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
        with rc_context(WRITTEN):
            super().savefig(fname, **{"dpi": 300, "metadata": dates.get(form), **options})


def new_figure(width: float, height: float) -> PaperFigure:
    """An empty figure of some inches."""
    figure = PaperFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def short_name(name: str) -> str:
    """The display name; a dagger stands for the package of pytorch-ood's, as in `paper.figure`'s caption."""
    return display_name(name).replace(" (pytorch-ood)", DAGGER)


@contextmanager
def style(size: str) -> Iterator[None]:
    """What figures are made in."""
    font = FONTS[size]
    with rc_context(
        {
            "font.family": "sans-serif",
            "font.size": font,
            "axes.titlesize": font,
            "axes.labelsize": font,
            "xtick.labelsize": font,
            "ytick.labelsize": font,
            "legend.fontsize": font,
            "figure.titlesize": font,
            "axes.linewidth": 0.6,
            "lines.linewidth": 1.2,
        }
    ):
        yield


def auroc_figure(results: Sequence[Result], size: str = "column") -> PaperFigure:
    """Near- and far-OOD AUROC of every detector on standard OOD, ± one std where there are several networks."""
    names = detectors_by_near_auroc(results, "ood")[::-1]
    inch = FONTS[size] / 72
    figure = new_figure(WIDTHS[size], 1.45 * inch * len(names) + 6 * inch)
    axis = figure.subplots()
    ends = [100.0]
    for group, row in GROUP_ROWS.items():
        by_name = {
            name: [r.auroc for r in results if (r.detector, r.setting, r.dataset) == (name, "ood", row)]
            for name in names
        }
        drawn = [(place, values) for place, values in enumerate(by_name.values()) if values]
        if not drawn:
            continue
        means, stds = ([f(values) for _, values in drawn] for f in (np.mean, np.std))
        bars = np.array([stds, np.minimum(stds, 100 - np.array(means))]) if max(len(v) for _, v in drawn) > 1 else None
        axis.errorbar(
            means, [place for place, _ in drawn], xerr=bars, fmt=MARKERS[group], color=COLOURS[group],
            markersize=0.45 * FONTS[size], elinewidth=0.8, label=f"{group}-OOD", clip_on=False,
        )  # fmt: skip
        ends += [float(mean - std) for mean, std in zip(means, stds)]
    axis.set_xlim(max(0.0, 5 * np.floor(min(ends) / 5)), 100)
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.set_yticks(range(len(names)), [short_name(name) for name in names], parse_math=False)
    axis.set_xlabel("AUROC (%)")
    axis.grid(axis="y", color="0.92", linewidth=0.6)
    axis.set_axisbelow(True)
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
    inch = FONTS[size] / 72
    legend = 1.5 * inch * -(-len(names) // legend_columns([short_name(name) for name in names], size))
    figure = new_figure(width, rows * 0.85 * width / columns + legend)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, group in zip(axes, groups):
        for name, colour, dashes in zip(names, PALETTE, DASHES):
            tpr = mean_curve(scores[name], group)
            axis.plot(100 * GRID, 100 * tpr, color=colour, linestyle=dashes, label=short_name(name), clip_on=False)
        axis.plot([0, 100], [0, 100], color="0.8", linewidth=0.6)
        axis.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", title=f"{group}-OOD")
        axis.set_ylabel("OOD samples found (%)")
        axis.set_xlabel("ID samples called OOD (%)")
    legend_under(figure, axes[0], size)
    return figure


def mean_curve(by_seed: Mapping[str, Mapping[str, NDArray[np.floating]]], group: str) -> NDArray[np.floating]:
    """Share of OOD samples found at each share of `GRID` of ID samples called OOD, mean over data sets and networks."""
    curves = []
    for by_split in by_seed.values():
        for split in members(by_split, group):
            ood, of_id = by_split[split], by_split[TEST]
            is_ood = np.arange(len(of_id) + len(ood)) >= len(of_id)
            fpr, tpr, _ = roc_curve(is_ood, -np.concatenate([of_id, ood]))
            curves.append(np.interp(GRID, fpr, tpr))
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
    height = rows * (0.45 * width / columns + 4 * inch) + 1.5 * inch * -(-(len(sets) + 1) // legend_columns(sets, size))
    figure = new_figure(width, height)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.axis("off")
    for axis, (name, by_split) in zip(axes, by_name.items()):
        values = np.concatenate([by_split[split] for split in (TEST, *sets)]).astype(np.float64)
        low, high = np.quantile(values, [0.002, 0.998])
        bins = np.linspace(low, high if high > low else low + 1, BINS + 1).tolist()
        axis.hist(by_split[TEST], bins, density=True, color=ID_COLOUR, alpha=0.5, label="ID test")
        for split, look in looks(sets).items():
            label = split.replace("/", ": ")
            line: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes, "linewidth": 1.2}
            axis.hist(by_split[split], bins, density=True, histtype="step", label=label, **line)
        axis.set_title(short_name(name))
        axis.set_yticks([])
        axis.set_ylabel("density")
        axis.set_xlabel("score (larger = more ID)")
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
    handles, labels = axis.get_legend_handles_labels()
    columns = legend_columns(labels, size)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, columnspacing=1.2)
