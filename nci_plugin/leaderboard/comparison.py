"""Own numbers beside a published row: the known-answer test of an installation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nci_plugin.checks import PluginError
from nci_plugin.leaderboard.board import Board, Row, mean
from nci_plugin.leaderboard.rows import SOURCES, Entry, number


@dataclass(frozen=True)
class Difference:
    """One number: our text and values by seed, the published text, and own minus published in points.

    ``points`` is None where the board has no number.
    """

    own: str
    by_seed: Mapping[str, float]
    published: str
    points: float | None


def published_row(entry: Entry, board: Board) -> Row:
    """The board's row of the same names; raises PluginError if there is none."""
    rows = board.rows(entry.board)
    row = next((each for each in rows if each.key == entry.row.key), None)
    if row is None:
        of_detector = [each for each in rows if each.postprocessor == entry.row.postprocessor]
        there = "; ".join(f"{each.training}, {each.arch}, {each.description}" for each in of_detector) or "none"
        raise PluginError(
            f"board '{entry.board}': has no row of {entry.row.postprocessor} with {entry.row.training},"
            f" {entry.row.arch}, {entry.row.description}; of {entry.row.postprocessor} it has {there}"
        )
    return row


def differences(entry: Entry, published: Row) -> tuple[dict[str, Difference], str | None]:
    """Every number of a row beside the published one, by the field of a Row, and the seed that was compared.

    A published row of one network (``± 0.00``, or no ``±``) is compared with the nearest of several seeds, any other
    with their mean, and then the seed is None.
    """
    by_seed = {
        field: {result.seed: float(getattr(result, metric)) for result in getattr(entry, group)}
        for field, (group, metric) in SOURCES.items()
    }
    expected = {field: mean(getattr(published, field)) for field in SOURCES}
    known = {field: value for field, value in expected.items() if value is not None}
    seeds = list(by_seed["near"])
    seed = None
    if len(seeds) > 1 and _of_one_network(published):
        seed = min(seeds, key=lambda each: max(abs(by_seed[field][each] - value) for field, value in known.items()))
    found = {}
    for field, values in by_seed.items():
        own = float(np.mean(list(values.values()))) if seed is None else values[seed]
        points = own - known[field] if field in known else None
        found[field] = Difference(number(list(values.values())), values, getattr(published, field), points)
    return found, seed


def _of_one_network(row: Row) -> bool:
    return "±" not in row.near or row.near.endswith("± 0.00")
