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
from matplotlib.figure import Figure

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, Split
from nci_plugin.evaluation.directory import FIGURE, ResultsDirectory
from nci_plugin.evaluation.drawn import ID_COLOUR, DrawnFigure, draw_grid, short_names
from nci_plugin.evaluation.results import SETTINGS, Result, complete
from nci_plugin.files import write_atomically
from nci_plugin.report.names import display_name
from nci_plugin.report.tables import TITLES, detectors_by_near_auroc

COLOURS = {"near": "#0072B2", "far": "#D55E00"}
MARKERS = {"near": "o", "far": "D"}
"""Blue circles and vermilion diamonds (Okabe & Ito): apart for colour-blind readers and in grey."""

SUFFIXES = (".png", ".svg")
"""What a figure is written as where more than one format is."""

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

DOTTED: dict[str, Any] = {"color": "0.6", "linewidth": 0.8, "linestyle": ":"}
"""A line to be compared with: chance, a threshold."""

in_style = rc_context(
    {
        "axes.axisbelow": True,
        "axes.labelsize": 8,
        "axes.titlesize": 9,
        "figure.titlesize": 10,
        "grid.color": "0.93",
        "legend.fontsize": 8,
        "legend.title_fontsize": 8,
        "lines.linewidth": 1.3,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
)
"""The one look of the figures that commands draw, as a decorator; those for papers have their own, `paper_figures`."""


class Look(NamedTuple):
    """How one set looks in every figure."""

    colour: str
    marker: str
    dashes: Any

    @property
    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "linestyle": self.dashes}


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


def written_as(names: Iterable[str], of_pytorch_ood: str = " (pytorch-ood)") -> dict[str, str]:
    """Detectors' display names as figures have them (`short_names`), with another mark of pytorch-ood's if asked."""
    display = {name: display_name(name).replace(" (pytorch-ood)", of_pytorch_ood) for name in names}
    short = short_names(display.values())
    return {name: short[text] for name, text in display.items()}


def legend_below(figure: Figure, axis: Axes, ncols: int = 2, **options: Any) -> None:
    """The legend of one of a figure's panels, below all of them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False, **options)


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


@in_style
def draw_aurocs(results: Sequence[Result]) -> Figure:
    """Near- and far-OOD AUROC of every detector, one panel for each setting; bars are ± one std over seeds."""
    settings = [setting for setting in SETTINGS if any(result.setting == setting for result in results)]
    names = detectors_by_near_auroc(results, settings[0])[::-1]
    seeds = list(dict.fromkeys(result.seed for result in results))
    figure = DrawnFigure(4.6 * len(settings) + 1.4, 0.23 * len(names) + 1.5)
    axes = draw_grid(figure, len(settings), len(settings), sharey=True)
    for axis, setting in zip(axes, settings):
        draw_auroc_points(axis, results, setting, names, markersize=5, elinewidth=1)
        axis.axvline(50, **DOTTED)
        axis.set_title(TITLES[setting].split(" (")[0], fontsize=10)
    axes[0].set_yticks(range(len(names)), list(short_names(names).values()), parse_math=False)
    legend_below(figure, axes[0])
    networks = f"mean ± std over {len(seeds)} networks" if len(seeds) > 1 else "one network"
    figure.suptitle(f"OOD detection on {results[0].benchmark}, {networks}", fontsize=11)
    return figure


def draw_auroc_points(
    axis: Axes, results: Sequence[Result], setting: str, names: Sequence[str], **style: Any
) -> list[float]:
    """Mean AUROC of near and of far OOD, a row a detector from below, ± one std over networks that ends at 100.

    Returns where the bars begin.
    """
    ends: list[float] = []
    for group, row in GROUP_ROWS.items():
        by_name: dict[str, list[float]] = {name: [] for name in names}
        for result in results:
            if (result.setting, result.dataset) == (setting, row) and result.detector in by_name:
                by_name[result.detector].append(result.auroc)
        drawn = [(place, values) for place, values in enumerate(by_name.values()) if values]
        if not drawn:
            continue
        means, stds = (np.array([f(values) for _, values in drawn]) for f in (np.mean, np.std))
        bars = [stds, np.minimum(stds, 100 - means).clip(0)] if max(len(values) for _, values in drawn) > 1 else None
        axis.errorbar(
            means, [place for place, _ in drawn], xerr=bars,
            fmt=MARKERS[group], color=COLOURS[group], label=f"{group}-OOD", clip_on=False, **style,
        )  # fmt: skip
        ends += (means - stds).tolist()
    axis.set(ylim=(-0.7, len(names) - 0.3), xlabel="AUROC (%)")
    axis.grid(axis="y")
    return ends


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its path's suffix."""
    write_atomically(path, rendered(figure, path.suffix[1:]), durable=False)  # drawn again by the same command


def save_all(figures: Iterable[tuple[str, Figure | None]], directory: Path) -> list[str]:
    """Write figures that are not None in each of SUFFIXES; returns their paths below the directory, without suffix."""
    drawn = []
    for name, figure in figures:
        if figure is not None:
            for suffix in SUFFIXES:
                save(figure, directory / f"{name}{suffix}")
            drawn.append(name)
    return drawn


def rendered(figure: Figure, kind: str, dpi: int = 150) -> bytes:
    """The file of a figure, ``kind`` png or svg; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "nci_plugin"}):
        figure.savefig(buffer, dpi=dpi, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()
