"""Ranks as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nci_plugin.evaluation.results import SETTINGS
from nci_plugin.leaderboard.board import Row
from nci_plugin.leaderboard.disputed import explained, marked
from nci_plugin.leaderboard.rank import GROUPS, standing
from nci_plugin.leaderboard.rows import number
from nci_plugin.leaderboard.run import Run
from nci_plugin.report.tables import TITLES, aligned, detectors_by_near_auroc

HEADER = ["  rank", "near", "far", "ID accuracy", "training", "postprocessor", "arch", "description"]


def standing_text(row: Row, rows: Sequence[Row], around: int) -> str:
    """A row's ranks among the ``rows`` of its board, with those ``around`` it: ``>`` it, ``*`` the same network.

    Numbers that are disputed have a ``!``, with the reason below where they are shown or count in the rank.
    """
    places = {group: standing(row, rows, group) for group in GROUPS}
    lines = []
    replaces = places["near"].replaces
    if replaces is not None:
        lines.append(f"in the place of the published row with near {replaces.near}, far {replaces.far}")
    for group, title in GROUPS.items():
        place = places[group]
        rank, count = place.among_same_network
        lines.append(
            f"{title} {getattr(row, group)}: rank {place.rank} of {len(place.rows)}; {rank} of {count} with the same"
            " architecture and training (*)"
        )
        cells = [HEADER]
        for other_rank, other in place.around(around).items():
            marks = (">" if other_rank == place.rank else " ") + ("*" if other.same_network(row) else " ")
            texts = [*(marked(other, each) for each in GROUPS), other.accuracy, other.training, other.postprocessor]
            cells.append([f"{marks}{other_rank:4d}", *texts, other.arch, other.description])
        lines.append(aligned(cells))
        last = max(place.around(around))
        lines += explained(place.rows[:last], group)
    return "\n".join(lines)


def own_ranks(run: Run, detectors: Sequence[str]) -> list[str]:
    """One table for each setting: the detectors of a run ranked among themselves by near-OOD AUROC."""
    results = [result for result in run.results if result.detector in detectors]
    tables = []
    for setting in SETTINGS:
        rows = [["rank", "near", "far", "detector"]]
        for rank, name in enumerate(detectors_by_near_auroc(results, setting), start=1):
            groups = [[result.auroc for result in run.group(name, setting, group)] for group in GROUPS]
            rows.append([str(rank), *(number(values) if values else "/" for values in groups), name])
        if len(rows) > 1:
            tables.append(f"{run.benchmark}, {TITLES[setting]}: AUROC in percent\n{aligned(rows)}")
    return tables
