"""Where a row stands among those of a board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nci_plugin.leaderboard.board import Row, mean

GROUPS = {"near": "Near-OOD AUROC", "far": "Far-OOD AUROC"}


@dataclass(frozen=True)
class Standing:
    """All rows of a board with one's own among them, best first; ``place`` is the index of one's own."""

    rows: Sequence[Row]
    place: int
    replaces: Row | None
    group: str
    interval: tuple[float, float] | None = None

    @property
    def own(self) -> Row:
        return self.rows[self.place]

    @property
    def rank(self) -> int:
        return self.place + 1

    @property
    def ranks(self) -> str:
        """``3``, or ``2-4`` where rows tie: by the 95 % interval of one's own AUROC, else by its two decimals.

        The published means are taken as exact, since their scores are not known.
        """
        own = _value(self.own, self.group)
        low, high = self.interval or (own, own)
        others = [_value(row, self.group) for row in self.rows if row is not self.own]
        first, last = 1 + sum(value > high for value in others), 1 + sum(value >= low for value in others)
        return f"{first}-{last}" if first < last else str(first)

    @property
    def among_same_network(self) -> tuple[int, int]:
        """The rank among the rows of the same architecture and training, and how many there are."""
        same = [index for index, row in enumerate(self.rows) if row.same_network(self.own)]
        return same.index(self.place) + 1, len(same)

    def around(self, count: int) -> dict[int, Row]:
        """The rows up to ``count`` places above and below, by their rank."""
        first = max(0, self.place - count)
        return {index + 1: self.rows[index] for index in range(first, min(len(self.rows), self.place + count + 1))}


def standing(row: Row, board: Sequence[Row], group: str, interval: tuple[float, float] | None = None) -> Standing:
    """Where a row stands by its ``near`` or ``far`` AUROC, after those that are equal to two decimals, as on the board.

    It takes the place of the published row of the same names, if there is one. ``interval`` is of its AUROC.
    """
    replaces = next((each for each in board if each.key == row.key), None)
    rows = [row if each is replaces else each for each in board] + [row] * (replaces is None)
    order = sorted(range(len(rows)), key=lambda index: -_value(rows[index], group))
    ranked = [rows[index] for index in order]
    return Standing(ranked, next(index for index, each in enumerate(ranked) if each is row), replaces, group, interval)


def _value(row: Row, group: str) -> float:
    value = mean(getattr(row, group))
    return float("-inf") if value is None else value
