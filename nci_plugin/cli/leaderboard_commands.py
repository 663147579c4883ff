"""The options of the actions of ``nci-ood leaderboard``; they come after those of `commands` in every help."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from nci_plugin.cli.groups import BoardRows, RowNames
from nci_plugin.cli.options import argument, command, group, option

ACTIONS = {
    "leaderboard": (
        "turn results into rows of OpenOOD's leaderboard, and compare with it",
        "Rows for the leaderboard of OpenOOD v1.5, from the results of 'nci-ood eval'.",
    )
}
"""Help and description of the sub-commands that have actions."""


@command("leaderboard rows", "print the rows, and the lines of papers.csv that they need")
@dataclass(frozen=True)
class LeaderboardRows:
    """Print the rows, and the lines of papers.csv that they need."""

    asked: BoardRows = group(BoardRows)
    explain: bool = option(False, "trace every number to the results it came from")
    issue: bool = option(
        False, "write the text of OpenOOD's leaderboard issue for each detector, with its CSV files beside it"
    )
    output: Path | None = option(None, "where --issue writes to (RESULTS/leaderboard)", "DIR")
    link: tuple[str, ...] = option((), "papers of names that the board lacks (the detector's)", "NAME=URL")


@command("leaderboard apply", "add the rows to a checkout of the leaderboard, or update them there")
@dataclass(frozen=True)
class LeaderboardApply:
    """Add the rows to a checkout of the leaderboard, or update them there."""

    board: Path = option(MISSING, "a checkout of OpenOOD's leaderboard branch", "PATH")
    asked: BoardRows = group(BoardRows, without=("board",))
    dry_run: bool = option(False, "show the diff, change nothing")
    link: tuple[str, ...] = option((), "papers of names that the board lacks (the detector's)", "NAME=URL")


@command("leaderboard rank", "say where the results would stand, and what they cannot be compared with")
@dataclass(frozen=True)
class LeaderboardRank:
    """Say where the results would stand, and what they cannot be compared with."""

    asked: BoardRows = group(BoardRows)
    around: int = option(3, "rows shown above and below (3)", "N")


@command("leaderboard compare", "show own numbers beside the published ones")
@dataclass(frozen=True)
class LeaderboardCompare:
    """Own numbers beside the published row, own minus published: the known-answer test of an installation. Exit code 1
    if one differs by more than the tolerance."""

    benchmark: str = argument("BENCHMARK", "a benchmark of the leaderboard")
    detector: str = argument("DETECTOR", "a detector's name, as in 'nci-ood eval'")
    results: Path | None = option(None, "the results (the one directory that has some of this benchmark)", "DIR")
    tolerance: float = option(0.1, "that counts as equal (0.1)", "POINTS")
    names: RowNames = group(RowNames)
