"""Figures, drawn from Results alone."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, Split
from nci_plugin.evaluation.directory import FIGURE, ResultsDirectory
from nci_plugin.evaluation.drawn import DrawnFigure
from nci_plugin.evaluation.results import SETTINGS, Result, complete
from nci_plugin.files import write_atomically
from nci_plugin.report.tables import TITLES, detectors_by_near_auroc

COLOURS = {"near": "#0072B2", "far": "#D55E00"}
MARKERS = {"near": "o", "far": "D"}
"""Blue circles and vermilion diamonds (Okabe & Ito): apart for colour-blind readers and in grey."""

SUFFIXES = (".png", ".svg")
"""What a figure is written as where more than one format is."""

ID_COLOUR = "0.45"
SET_LOOKS = {
    NEAR: (("#0072B2", "#56B4E9", "#332288", "#88CCEE"), "^v<>"),
    FAR: (("#D55E00", "#E69F00", "#CC79A7", "#882255", "#AA4499"), "sDP*p"),
    CSID: (("#009E73", "#117733", "#44AA99", "#999933"), "x+12"),
}
"""Group of sets -> the colours (Okabe & Ito's, then Tol's muted) and the markers of its sets, in turn."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe & Ito's colours for all readers, without their yellow, which is lost on white; and grey."""

MOST = len(PALETTE)
"""Lines that can be told apart."""

DASHES: Any = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
"""Lines that can be told apart in grey."""


class Look(NamedTuple):
    """How one set looks in every figure."""

    colour: str
    marker: str
    dashes: Any


def looks(splits: Iterable[str]) -> dict[str, Look]:
    """The look of each split, of which no two of up to four sets a group share colour, marker or dashes."""
    count: Counter[str] = Counter()
    found: dict[str, Look] = {}
    for split in splits:
        group = Split.parse(split).group
        colours, markers = SET_LOOKS.get(group, ((ID_COLOUR,), "o"))
        place, count[group] = count[group], count[group] + 1
        dashes = DASHES[len(found) % len(DASHES)]
        found[split] = Look(colours[place % len(colours)], markers[place % len(markers)], dashes)
    return found


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of some inches."""
    figure = DrawnFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: Figure, axis: Axes, ncols: int = 2, **options: Any) -> None:
    """The legend of one of a figure's panels, below all of them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, **{"fontsize": 8, **options})


def draw_run(directory: ResultsDirectory, results: Sequence[Result], failed: Collection[str] = ()) -> None:
    """Write the figure of all rows in a directory that are of the networks of ``results``, if there are any.

    Older rows of the detectors that ``failed`` are not drawn.
    """
    seeds = {result.seed for result in results}
    here = [result for result in directory.read() if result.seed in seeds and result.detector not in failed]
    if here:
        auroc_figure(complete(here), directory.path / FIGURE)


def auroc_figure(results: Sequence[Result], path: Path) -> None:
    """Write `draw_aurocs`."""
    save(draw_aurocs(results), path)


def draw_aurocs(results: Sequence[Result]) -> Figure:
    """Near- and far-OOD AUROC of every detector, one panel for each setting; bars are ± one std over seeds."""
    settings = [setting for setting in SETTINGS if any(result.setting == setting for result in results)]
    names = detectors_by_near_auroc(results, settings[0])[::-1]
    seeds = list(dict.fromkeys(result.seed for result in results))
    figure = new_figure(4.6 * len(settings) + 1.4, 0.23 * len(names) + 1.5)
    axes = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axis, setting in zip(axes, settings):
        for group, row in GROUP_ROWS.items():
            values = {
                name: [r.auroc for r in results if (r.detector, r.setting, r.dataset) == (name, setting, row)]
                for name in names
            }
            drawn = [(place, values[name]) for place, name in enumerate(names) if values[name]]
            if drawn:
                axis.errorbar(
                    [np.mean(each) for _, each in drawn],
                    [place for place, _ in drawn],
                    xerr=[np.std(each) for _, each in drawn] if len(seeds) > 1 else None,
                    fmt=MARKERS[group],
                    color=COLOURS[group],
                    markersize=5,
                    elinewidth=1,
                    label=f"{group}-OOD",
                )
        axis.axvline(50, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(TITLES[setting].split(" (")[0], fontsize=10)
        axis.set_xlabel("AUROC (%)")
        axis.grid(axis="y", color="0.92")
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    axes[0].set_ylim(-0.7, len(names) - 0.3)
    legend_below(figure, axes[0])
    networks = f"mean ± std over {len(seeds)} networks" if len(seeds) > 1 else "one network"
    figure.suptitle(f"OOD detection on {results[0].benchmark}, {networks}", fontsize=11)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its path's suffix."""
    write_atomically(path, rendered(figure, path.suffix[1:]), durable=False)  # drawn again by the same command


def rendered(figure: Figure, kind: str, dpi: int = 150) -> bytes:
    """The file of a figure, ``kind`` png or svg; the same figure gives the same bytes."""
    for text in figure.findobj(Text):
        if "$" in text.get_text():  # of a name: no text of this package is a formula
            text.set_parse_math(False)
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "nci_plugin"}):
        figure.savefig(buffer, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
