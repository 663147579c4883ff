"""Published numbers that someone could not reproduce and has asked the board about; they are marked, not left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nci_plugin.leaderboard.board import Row


@dataclass(frozen=True)
class Dispute:
    """Whose number (``group``: near or far) is disputed, the number as text, the reason and where it is discussed.

    A number that the board has changed since is no longer meant.
    """

    postprocessor: str
    arch: str
    group: str
    value: str
    reason: str
    url: str


_COMBOOD = (
    "near-OOD AUROC could not be reproduced (13 to 22 points lower) and may be of OpenOOD v1.0's near-OOD sets",
    "https://github.com/Jingkang50/OpenOOD/issues/307",
)

DISPUTES = (
    Dispute("CombOOD", "ResNet50", "near", "95.22", *_COMBOOD),
    Dispute("CombOOD", "ResNet18", "near", "95.74 ± 0.00", *_COMBOOD),
)


def dispute(row: Row, group: str) -> Dispute | None:
    """What is disputed about the ``near`` or ``far`` number of a row; None where nothing is."""
    key = (row.postprocessor, row.arch, group, getattr(row, group))
    return next((each for each in DISPUTES if (each.postprocessor, each.arch, each.group, each.value) == key), None)


def marked(row: Row, group: str) -> str:
    """The number as text, with ``!`` behind it where it is disputed."""
    return getattr(row, group) + (" !" if dispute(row, group) else "")


def explained(rows: Sequence[Row], group: str) -> list[str]:
    """A line for every disputed number among the ``rows``."""
    found = [each for row in rows if (each := dispute(row, group)) is not None]
    return [f"! disputed: {each.postprocessor} {each.value}: {each.reason}; {each.url}" for each in found]
