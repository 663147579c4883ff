"""Numbers as the cells of tables: one way to write a value, a share and an interval."""

from __future__ import annotations

from nci_plugin.dynamics.intervals import Interval

UNKNOWN = "-"


def number(value: float | None) -> str:
    """Four significant digits, whole numbers in full; UNKNOWN for None and NaN."""
    if value is None or value != value:
        return UNKNOWN
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def percent(value: float | None, factor: float = 1) -> str:
    return UNKNOWN if value is None or value != value else f"{factor * value:.1f}"


def interval(bounds: Interval, factor: float = 1, form: str = ".1f") -> str:
    return UNKNOWN if bounds is None else f"[{factor * bounds[0]:{form}}, {factor * bounds[1]:{form}}]"


def with_interval(value: float | None, bounds: Interval, form: str, factor: float = 1) -> str:
    """``value [low, high]``, both times ``factor``; without an interval where there is none."""
    if value is None:
        return UNKNOWN
    return f"{factor * value:{form}}" + ("" if bounds is None else f" {interval(bounds, factor, form)}")
