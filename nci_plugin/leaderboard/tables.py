"""Ranks as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nci_plugin.evaluation.results import SETTINGS
from nci_plugin.evaluation.run import Run
from nci_plugin.leaderboard.board import Row
from nci_plugin.leaderboard.disputed import explained, marked
from nci_plugin.leaderboard.rank import GROUPS, standing
from nci_plugin.leaderboard.rows import number
from nci_plugin.report.tables import TITLES, detectors_by_near_auroc
from nci_plugin.report.terminal import aligned, folded, with_prose

HEADER = ["  rank", "near", "far", "ID accuracy", "training", "postprocessor", "arch", "description"]


Interval = tuple[float, float]


def standing_text(row: Row, rows: Sequence[Row], around: int, intervals: Mapping[str, Interval | None]) -> str:
    """A row's ranks among the ``rows`` of its board, with those ``around`` it: ``>`` it, ``*`` the same network.

    Rows within the own 95 % ``intervals``, by group, are ties. Numbers that are disputed have a ``!``, with the reason
    below where they are shown or count in the rank.
    """
    places = {group: standing(row, rows, group, intervals.get(group)) for group in GROUPS}
    lines = []
    replaces = places["near"].replaces
    if replaces is not None:
        lines.append(folded(f"in the place of the published row with near {replaces.near}, far {replaces.far}"))
    for group, title in GROUPS.items():
        place = places[group]
        rank, count = place.among_same_network
        ties = "" if place.interval is None else " by its 95 % interval [{:.2f}, {:.2f}]".format(*place.interval)
        lines.append(
            folded(
                f"{title} {getattr(row, group)}: rank {place.ranks} of {len(place.rows)}{ties}; {rank} of {count} with"
                " the same architecture and training (*)"
            )
        )
        cells = [HEADER]
        for other_rank, other in place.around(around).items():
            marks = (">" if other_rank == place.rank else " ") + ("*" if other.same_network(row) else " ")
            texts = [*(marked(other, each) for each in GROUPS), other.accuracy, other.training, other.postprocessor]
            cells.append([f"{marks}{other_rank:4d}", *texts, other.arch, other.description])
        lines.append(with_prose(cells))
        last = max(place.around(around))
        lines += map(folded, explained(place.rows[:last], group))
    return "\n".join(lines)


def own_ranks(run: Run, detectors: Sequence[str], ranks: Mapping[str, Mapping[str, Mapping[str, str]]]) -> list[str]:
    """One table for each setting: the detectors of a run among themselves, in the order of near-OOD AUROC.

    ``ranks`` by setting, group and detector show ties as ties; without them a rank is the place in that order.
    """
    results = [result for result in run.results if result.detector in detectors]
    tables = []
    for setting in SETTINGS:
        known = ranks.get(setting, {})
        rows = [[*([f"rank {group}" for group in known] or ["rank"]), "near", "far", "detector"]]
        for rank, name in enumerate(detectors_by_near_auroc(results, setting), start=1):
            groups = [[result.auroc for result in run.group(name, setting, group)] for group in GROUPS]
            places = [of_group[name] for of_group in known.values()] or [str(rank)]
            rows.append([*places, *(number(values) if values else "/" for values in groups), name])
        if len(rows) > 1:
            note = "\n2-4: no rank from 2 to 4 can be excluded (DeLong and Holm, 5 %)" if known else ""
            tables.append(f"{run.benchmark}, {TITLES[setting]}: AUROC in percent\n{aligned(rows)}{note}")
    return tables
