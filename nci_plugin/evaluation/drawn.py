"""What figures are made of: a Figure that a notebook shows, panels in rows, densities of scores and ROC curves."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from os.path import commonprefix
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from numpy.typing import NDArray

from nci_plugin.metrics import roc_points

logger = logging.getLogger(__name__)

ID_COLOUR = "0.45"
BINS = 40

MOST_LETTERS = 36
"""Of a name in a figure."""


class DrawnFigure(Figure):
    """An empty figure of some inches; in a notebook it is its own picture, whether pyplot was imported or not.

    ``$`` is taken as it stands: it is of a name. No name has a backslash; the numbers that matplotlib writes on a
    logarithmic axis, as formulas, have one. Texts have the fonts that they need (`with_fonts`).
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            if "$" in text.get_text() and "\\" not in text.get_text():
                text.set_parse_math(False)
            with_fonts(text)
        with no_glyph_warnings():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def with_fonts(text: Text) -> None:
    """Give a text, beside its font, those of this machine that have what its font lacks, of Chinese names say."""
    if text.get_text().isascii():
        return
    font = font_manager.findfont(text.get_fontproperties())
    missing = frozenset(ord(each) for each in text.get_text() if each != "\n") - _characters(font)
    if missing:
        text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *_families(missing)])))


@contextmanager
def no_glyph_warnings() -> Iterator[None]:
    """Without a warning of matplotlib's for each character that no font has: `with_fonts` says so once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@cache
def _families(missing: frozenset[int]) -> tuple[str, ...]:
    """The families of fonts that have some characters, as far as any has; a line says where none has."""
    upright = [each for each in font_manager.fontManager.ttflist if (each.style, each.weight) == ("normal", 400)]
    known = {each.name: each.fname for each in upright if "last resort" not in each.name.lower()}  # which has boxes
    found, left = [], missing
    for name in sorted(known, key=lambda name: ("sans" not in name.lower(), name)):
        if left & _characters(known[name]):
            found.append(name)
            left -= _characters(known[name])
        if not left:
            break
    else:
        _say_missing()
    return tuple(found)


@cache
def _characters(font: str) -> frozenset[int]:
    """The code points that a file of a font has; none of one that cannot be drawn in any size, as of emoji."""
    try:
        file = FT2Font(font)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(file.get_charmap()) if file.scalable else frozenset()


@cache
def _say_missing() -> None:
    """Say it once in a process, however many figures are drawn."""
    logger.warning(
        "figures: no font of this machine has all characters of the names, which are drawn as boxes; install one that"
        " has them, say Noto Sans CJK"
    )


def short_names(names: Iterable[str], most: int = MOST_LETTERS) -> dict[str, str]:
    """What names are in a figure: of a long one its beginning and its end, which leave room for what is drawn.

    Of names that would become one, it is the beginning and where they begin to differ. More than ``most`` letters are
    kept only where that does not tell all apart. A blank stands before an underscore, with which matplotlib takes a
    name for one that is in no legend.
    """
    found, end = dict.fromkeys(names), 3 * most // 8
    short = {name: name if len(name) <= most else f"{name[: most - end - 1]}…{name[-end:]}" for name in found}
    for text, count in Counter(short.values()).items():
        same = [name for name in found if short[name] == text] if count > 1 else []
        differ = max(most // 4, len(commonprefix(same)) - 2)
        short |= {name: f"{name[: most // 4]}…{name[differ:][: most - most // 4 - 1]}" for name in same}
    if len(set(short.values())) < len(short):
        return short_names(found, most + 8)
    return {name: f" {text}" if text.startswith("_") else text for name, text in short.items()}


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
