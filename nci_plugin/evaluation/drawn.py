"""What figures are made of: a Figure that a notebook shows, panels in rows, densities of scores and ROC curves."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from nci_plugin.metrics import roc_points

ID_COLOUR = "0.45"
BINS = 40


class DrawnFigure(Figure):
    """An empty figure of some inches; in a notebook it is its own picture, whether pyplot was imported or not.

    ``$`` is taken as it stands: it is of a name. No name has a backslash; the numbers that matplotlib writes on a
    logarithmic axis, as formulas, have one.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            if "$" in text.get_text() and "\\" not in text.get_text():
                text.set_parse_math(False)
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def draw_grid(figure: Figure, count: int, across: int, **shared: Any) -> list[Axes]:
    """The axes of ``count`` panels, so many in a row; what is over in the last row stays empty."""
    axes = list(figure.subplots(-(-count // across), across, squeeze=False, **shared).flat)
    for axis in axes[count:]:
        axis.axis("off")
    return axes[:count]


def draw_densities(axis: Axes, scores: Mapping[str, NDArray[Any]], styles: Mapping[str, Any] | None = None) -> None:
    """Densities of scores by label, the first (of ID) filled, over all but the outermost 0.4 % of the scores."""
    low, high = np.quantile(np.concatenate(list(scores.values())).astype(np.float64), [0.002, 0.998])
    bins = np.linspace(low, high if high > low else low + 1, BINS + 1).tolist()
    (first, id_scores), *others = scores.items()
    axis.hist(id_scores, bins, density=True, color=ID_COLOUR, alpha=0.55, label=first)
    for label, values in others:
        style = {"linewidth": 1.3, **(styles or {}).get(label, {})}
        axis.hist(values, bins, density=True, histtype="step", label=label, **style)
    axis.set_yticks([])


def draw_roc(axis: Axes, id_scores: NDArray[Any], ood_scores: NDArray[Any], **style: Any) -> None:
    """The ROC curve of scores, OOD positive, in percent."""
    fpr, tpr = roc_points(id_scores, ood_scores)
    axis.plot(100 * fpr, 100 * tpr, **{"linewidth": 1.3, "clip_on": False, **style})


def draw_chance(axis: Axes) -> None:
    """The diagonal of ROC curves in percent, behind them, and the limits of their panel."""
    axis.plot([0, 100], [0, 100], color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlim=(0, 100), ylim=(0, 100))
