"""From Results to the rows of a board, and back from every number to its Results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from nci_plugin.checks import PluginError, one_line
from nci_plugin.evaluation.identity import FIELDS, shown_field
from nci_plugin.evaluation.results import Result, formatted
from nci_plugin.evaluation.run import Run
from nci_plugin.leaderboard.board import BOARDS, COLUMNS, Board, Row, cells_of, csv_line
from nci_plugin.leaderboard.names import Network, alias, link

SOURCES = {"near": ("near", "auroc"), "far": ("far", "auroc"), "accuracy": ("near", "acc")}
"""Fields of a Row that are numbers, and the Results of its Entry and the metric that they come from."""


@dataclass(frozen=True)
class Entry:
    """A row of one board, and the Results, one for each seed, that its numbers are the means of."""

    board: str
    detector: str
    setting: str
    row: Row
    near: Sequence[Result]
    far: Sequence[Result]


def entries(
    run: Run, detectors: Sequence[str], network: Network, aliases: Mapping[str, str], board: Board
) -> list[Entry]:
    """The rows of the detectors on every board of the run's benchmark.

    ``aliases`` maps detectors to the names that they get on the board, where those are not to be the usual ones.
    Raises PluginError on rows that the board's converter could not read, and on two with one name.
    """
    known = list(board.links())
    found = []
    for name in detectors:
        for setting, board_name in BOARDS[run.benchmark].items():
            near, far = run.group(name, setting, "near"), run.group(name, setting, "far")
            if not near and not far:
                continue  # --csid none
            if not near or not far:
                raise PluginError(f"results '{run.path}': '{name}' lacks near- or far-OOD sets; evaluate it on both")
            row = Row(
                postprocessor=aliases.get(name) or alias(name, known),
                near=number([result.auroc for result in near]),
                far=number([result.auroc for result in far]),
                accuracy=number([result.acc for result in near]),
                **asdict(network),
            )
            _check_readable(row)
            found.append(Entry(board_name, name, setting, row, near, far))
    _check_distinct(found)
    return found


def number(values: Sequence[float]) -> str:
    """``mean ± std`` (population) over several networks, the plain number of one."""
    return formatted(np.array(values), len(values) > 1)


def new_links(found: Sequence[Entry], board: Board, given: Mapping[str, str]) -> dict[str, str]:
    """The link of every alias that ``papers.csv`` lacks, from ``given`` or from the detector's paper.

    Raises PluginError on an alias without a link, and on a link for one that has another.
    """
    there = board.links()
    links: dict[str, str] = {}
    for entry in found:
        parts = entry.row.aliases
        for name in parts:
            if name not in there:
                links[name] = given.get(name) or ("" if len(parts) > 1 else link(entry.detector))
    unknown = [name for name, address in links.items() if not address]
    if unknown:
        raise PluginError(
            f"link: none is known for {', '.join(unknown)}, and the board has none; pass --link {unknown[0]}=URL, or"
            " leave the detector out with --detectors"
        )
    for name, address in given.items():
        if name not in links and there.get(name) != address:
            reason = f"the board has {there[name]}" if name in there else "no row has that alias"
            raise PluginError(f"--link {name}: {reason}; leave it out")
    return links


def explain(run: Run, entry: Entry) -> list[str]:
    """Lines that trace every number of a row to the Results it came from."""
    lines = []
    for column, (field, (group, metric)) in zip(COLUMNS[2:5], SOURCES.items()):
        results = getattr(entry, group)
        first = results[0]
        what = f"'{metric}' of '{first.dataset}'" + (
            f", the mean over {', '.join(_data_sets(run, first))}" if metric == "auroc" else f", {first.n_id} ID images"
        )
        over = f"mean ± population std over {len(results)} networks" if len(results) > 1 else "one network"
        lines.append(f"{column} = {getattr(entry.row, field)}: {what}; {over}")
        for result in results:
            lines.append(f"  {result.seed or 'network'}  {getattr(result, metric):.6f}  {run.line(result)}")
    for result in entry.near:
        chosen = ", ".join(f"{name}={value}" for name, value in result.hyperparameters.items()) or "no hyper-parameters"
        lines.append(one_line(f"{result.seed or 'network'}: {chosen} ({result.chosen_by})"))
        origin = ("checkpoint", *FIELDS, "features", "nci_plugin", "torch", "device")
        lines.append(one_line("  " + ", ".join(f"{name} {shown_field(result.provenance, name)}" for name in origin)))
    return lines


def _data_sets(run: Run, mean_row: Result) -> list[str]:
    return [
        each.dataset
        for each in run.results
        if (each.detector, each.setting, each.seed, each.group)
        == (mean_row.detector, mean_row.setting, mean_row.seed, mean_row.group)
        and each.dataset != mean_row.dataset
    ]


def _check_readable(row: Row) -> None:
    """Raise PluginError unless pandas, with which the board reads its files, gives back every cell as it is."""
    texts = {name: value for name, value in zip(COLUMNS, cells_of(row)) if value or name != COLUMNS[-1]}
    for name, value in texts.items():
        if "/" in value and name != "Arch":
            raise PluginError(f"{name} '{value}': must not hold '/', the board makes a file name of it; rename it")
        if value != value.strip() or not value.isprintable():
            raise PluginError(f"{name} '{value}': must be one line without spaces around it; rename it")
    lines = f"{csv_line(COLUMNS)}\n{csv_line(cells_of(row))}\n"
    read = pd.read_csv(io.StringIO(lines)).iloc[0]
    for name, value in texts.items():
        if name not in COLUMNS[2:5] and read[name] != value:  # a column of plain numbers is read as such
            raise PluginError(f"{name} '{value}': the board's reader would read it as {read[name]}; rename it")


def _check_distinct(found: Sequence[Entry]) -> None:
    owners: dict[tuple[str, str], Entry] = {}
    for entry in found:
        other = owners.setdefault((entry.board, entry.row.file_name.lower()), entry)
        if other is not entry:
            raise PluginError(
                f"board '{entry.board}': '{other.detector}' and '{entry.detector}' would both be its row"
                f" {entry.row.postprocessor}; choose one with --detectors, or pass --alias {entry.detector}=NAME"
            )
