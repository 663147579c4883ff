"""A figure of matplotlib that a notebook shows, which it does of itself only where pyplot was imported."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class DrawnFigure(Figure):
    """A Figure that is its own picture in a notebook."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()
