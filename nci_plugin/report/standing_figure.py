"""Near against far AUROC, a labelled point a detector: the one chart of the page's summary."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import product
from math import cos, pi, sin

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.evaluation.drawn import DrawnFigure, no_glyph_warnings, with_fonts
from nci_plugin.report.figures import COLOURS, in_style, written_as

Bounds = tuple[float, float]
RADII = (9, 16, 26, 38, 52, 68, 86, 106)
"""Points between a detector and its label, the nearest that is free."""

OTHERS = "pytorch_ood:"
TOP = 101
TICKS = (0, 20, 40, 50, 60, 70, 80, 85, 90, 95, 97, 98, 99, 100)

LINE = {"arrowstyle": "-", "linewidth": 0.6, "color": "0.35"}
ANGLES = [pi * each / 8 for each in range(16)]


@in_style
def standing_figure(
    near: Mapping[str, float],
    far: Mapping[str, float],
    intervals: Mapping[tuple[str, str], Bounds],
    leading: Collection[str],
) -> Figure | None:
    """Near against far AUROC (percent) of the detectors that have both, ``intervals`` (group, detector) as crosses.

    ``leading`` ones are coloured. None where no detector has both.
    """
    names = [name for name in near if name in far]
    if not names:
        return None
    figure = DrawnFigure(10.0, 6.2)
    axis = figure.subplots()
    for name in names:
        colour = COLOURS[NEAR] if name in leading else "0.45"
        x, y = near[name], far[name]
        for group, point, draw in ((NEAR, y, axis.hlines), (FAR, x, axis.vlines)):
            if (group, name) in intervals:
                draw(point, *intervals[group, name], color=colour, linewidth=0.7, alpha=0.45)
        axis.plot(x, y, "s" if name.startswith(OTHERS) else "o", color=colour, markersize=5)
    for scale, ticks in ((axis.set_xscale, axis.xaxis), (axis.set_yscale, axis.yaxis)):
        scale("function", functions=(_stretched, lambda place: TOP - np.exp(-place)))
        ticks.set_major_locator(FixedLocator(TICKS))
    axis.set(xlabel="near-OOD AUROC (%)", ylabel="far-OOD AUROC (%)")
    axis.grid()
    for bounds, limit in ((axis.get_xlim(), axis.set_xlim), (axis.get_ylim(), axis.set_ylim)):
        limit(max(bounds[0], 0), 100.2)
    what = ", stretched towards 100"
    what += ", squares: pytorch-ood's" if any(name.startswith(OTHERS) for name in names) else ""
    what += ", bars: 95 % intervals" if intervals else ""
    if leading:
        what += ", blue: none is shown to be better, near or far"
    figure.suptitle(f"Up and to the right is better{what}", fontsize=9)
    _label(figure, axis, {name: (near[name], far[name]) for name in sorted(names, key=lambda n: -near[n] - far[n])})
    return figure


def _stretched(percent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where an AUROC lies on an axis with as much room from 99 to 100 as from 97 to 99: there most detectors are."""
    stretched: NDArray[np.float64] = -np.log(np.maximum(TOP - np.asarray(percent, dtype=np.float64), 1e-6))
    return stretched


def _label(figure: Figure, axis: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """The name of every point where it covers neither a point nor a name, as near as that is."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what is placed stays where it is
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # as DrawnFigure makes it
    renderer = canvas.get_renderer()
    inside, scale = axis.get_window_extent(), figure.dpi / 72
    places = {name: axis.transData.transform(point) for name, point in points.items()}
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in places.values()]
    short = written_as(points, of_pytorch_ood="")
    for name, (x, y) in places.items():
        text = axis.annotate(
            short[name], points[name], (0, 0), textcoords="offset points",
            fontsize=7, parse_math=False, ha="center", va="center",
            arrowprops={**LINE, "shrinkA": 0, "shrinkB": 2},
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )  # fmt: skip
        with_fonts(text)
        with no_glyph_warnings():
            size = Text.get_window_extent(text, renderer)  # without the line to the point
        width, height = size.width, size.height
        for radius, angle in product(RADII, ANGLES):
            dx, dy = (radius * scale + width / 2) * cos(angle), (radius * scale + height / 4) * sin(angle)
            free = Bbox.from_bounds(x + dx - width / 2, y + dy - height / 2, width, height)
            within = inside.x0 <= free.x0 and free.x1 <= inside.x1 and inside.y0 <= free.y0 and free.y1 <= inside.y1
            if within and not free.count_overlaps(taken):
                break
        text.set_position((dx / scale, dy / scale))
        taken.append(free)
