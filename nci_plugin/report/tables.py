"""Tables for a terminal and for the page, drawn from Results alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nci_plugin.benchmarks.benchmark import GROUP_ROWS, OOD_VALIDATION
from nci_plugin.checks import one_line
from nci_plugin.evaluation.alternatives import MOST_ROWS, VALIDATED_ON, Alternative, read_alternatives
from nci_plugin.evaluation.precision import AMP_SHIFT
from nci_plugin.evaluation.results import METRICS, Result, formatted, is_over_seeds, table

TITLES = {"ood": "standard OOD", "fsood": "full-spectrum OOD (covariate-shifted samples count as ID)"}
WIDTH_WITHOUT_TERMINAL = 160
"""Characters that a table may take in a file or a pipe; a wider one is split, as in a narrower terminal."""


@dataclass(frozen=True)
class Table:
    """``rows`` of one length, the header first; ``notes`` stand below."""

    title: str
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self) -> str:
        """For a terminal: the first column to the left, the others to the right."""
        return "\n".join([self.title, aligned(self.rows), *self.notes])


def detectors_by_near_auroc(results: Sequence[Result], setting: str) -> list[str]:
    """Detectors of a setting, best mean near-OOD AUROC first (far-OOD where the benchmark has no near set)."""
    ranked: dict[str, list[float]] = {}
    here = [result for result in results if result.setting == setting]
    row = GROUP_ROWS["near"] if any(result.group == "near" for result in here) else GROUP_ROWS["far"]
    for result in here:
        if result.dataset == row:
            ranked.setdefault(result.detector, []).append(result.auroc)
    return sorted(ranked, key=lambda name: -float(np.mean(ranked[name])))


def setting_table(results: Sequence[Result], setting: str) -> str:
    """Title and `setting_frame` for a terminal; empty where the setting has no results."""
    if not detectors_by_near_auroc(results, setting):
        return ""
    return f"{setting_title(results, setting)}\n{framed(setting_frame(results, setting))}"


def framed(frame: pd.DataFrame) -> str:
    """A frame for a terminal, its columns in several parts where they are too wide."""
    return frame.to_string(line_width=_width())


def setting_frame(results: Sequence[Result], setting: str) -> pd.DataFrame:
    """Rows = detectors, columns = the metrics of each group and data set, cells = text; ID accuracy is in the title.

    A group of one data set is that data set: the two share their columns.
    """
    names = detectors_by_near_auroc(results, setting)
    over_seeds = is_over_seeds(results)
    tables = {name: table(results, name, setting) for name in names}
    headers = column_headers(data_sets([result for result in results if result.setting == setting]))
    columns = [(row, metric) for row in headers for metric in METRICS.values() if metric != METRICS["acc"]]
    cells = [[formatted(tables[name].loc[row, metric], over_seeds, "±") for row, metric in columns] for name in names]
    labels = pd.MultiIndex.from_tuples([(headers[row], metric) for row, metric in columns])
    return pd.DataFrame(cells, index=names, columns=labels)


def setting_title(results: Sequence[Result], setting: str, cells: str = "mean ± std") -> str:
    """Benchmark, setting, ID accuracy and what the numbers, ``cells``, are means of."""
    over_seeds = is_over_seeds(results)
    first = next(result for result in results if result.setting == setting)
    seeds = list(dict.fromkeys(result.seed for result in results))
    best = detectors_by_near_auroc(results, setting)[0]
    accuracy = formatted(table(results, best, setting).iloc[0][METRICS["acc"]], over_seeds)
    networks = f"{cells} over {', '.join(seeds)}" if over_seeds else "one network"
    return f"{first.benchmark}, {TITLES[setting]}: ACC {accuracy} on {first.n_id} ID samples; in percent, {networks}"


def data_sets(results: Sequence[Result]) -> dict[str, list[str]]:
    """The data sets behind each mean row of OpenOOD's table."""
    sets: dict[str, list[str]] = {}
    for result in results:
        if result.dataset not in GROUP_ROWS.values():
            names = sets.setdefault(GROUP_ROWS[result.group], [])
            names += [result.dataset] * (result.dataset not in names)
    return sets


def column_headers(sets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Rows of a table -> column headers, groups first; ``nearood = cifar100`` where that is the only set."""
    headers = {group: f"{group} = {names[0]}" if len(names) == 1 else group for group, names in sets.items()}
    headers.update({name: name for names in sets.values() if len(names) > 1 for name in names})
    return headers


def choices_table(results: Sequence[Result]) -> str:
    """`choices_rows` for a terminal."""
    rows = choices_rows(results)
    widths = [max(map(len, column)) for column in zip(*(row[:4] for row in rows))]
    return "\n".join(_aligned(row, widths) for row in rows)


def choices_rows(results: Sequence[Result]) -> list[list[str]]:
    """The hyper-parameters of each detector, how they were chosen, and the seconds it took (mean over seeds)."""
    rows = [["detector", "fit s", "search s", "score s", "hyper-parameters, and how they were chosen"]]
    for name in detectors_by_near_auroc(results, results[0].setting):
        by_seed = {result.seed: result for result in results if result.detector == name}
        seconds = {
            phase: np.mean([result.seconds[phase] for result in by_seed.values()])
            for phase in ("fit", "search", "score")
        }
        rows.append([name, *(f"{value:.2f}" for value in seconds.values()), _choice(by_seed)])
    return rows


def _choice(by_seed: Mapping[str, Result]) -> str:
    """``alpha=0.01 (search ...)``, once for all seeds that agree."""
    values: dict[str, list[str]] = {}
    for seed, result in by_seed.items():
        text = ", ".join(f"{name}={value}" for name, value in result.hyperparameters.items()) or "none"
        values.setdefault(text, []).append(seed)
    chosen = "; ".join(text if len(values) == 1 else f"{' '.join(seeds)}: {text}" for text, seeds in values.items())
    first = next(iter(by_seed.values()))
    differs = len({result.chosen_by for result in by_seed.values()}) > 1
    how = first.chosen_by + (f" for {first.seed}" if differs else "")
    return chosen if chosen == "none" else one_line(f"{chosen} ({how})")


def alternatives_table(results: Sequence[Result]) -> Table | None:
    """What every OOD set at hand would have chosen in place of ``ood/val``, and the AUROC over those choices.

    Values that differ between networks stand one after the other; the lowest and the highest AUROC of the choices are
    means over networks. None where nothing was searched, or by an earlier version.
    """
    found: dict[str, dict[str, dict[str, Alternative]]] = {}
    for result in results:
        if alternatives := read_alternatives(result.provenance):
            found.setdefault(result.detector, {})[result.seed] = alternatives
    if not found:
        return None
    sources = list(dict.fromkeys(name for by_seed in found.values() for each in by_seed.values() for name in each))
    rows = [["detector", "searched", *sources, *(f"{group} AUROC" for group in ("near", "far"))]]
    for detector, by_seed in found.items():
        made = list(by_seed.values())
        names = dict.fromkeys(name for each in made for choice in each.values() for name in choice.values)
        chosen = [
            dict.fromkeys(", ".join(map(str, each[source].values.values())) for each in made if source in each)
            for source in sources
        ]
        spreads = []
        for group in ("near", "far"):
            own = [[getattr(choice, group) for choice in each.values()] for each in made]
            known = not any(value is None for values in own for value in values)
            bounds = [float(np.mean([bound(values) for values in own])) for bound in (min, max)] if known else []
            spreads.append(f"{bounds[0]:.2f} to {bounds[1]:.2f}" if known else "-")
        rows.append([detector, ", ".join(names), *(" | ".join(each) or "-" for each in chosen), *spreads])
    validated = dict.fromkeys(str(result.provenance.get(VALIDATED_ON, "")) for result in results)
    named = ", ".join(one_line(name) for name in validated if name)
    return Table(
        "values that each OOD set would have chosen against id/val, and the AUROC over those choices",
        [[one_line(cell) for cell in row] for row in rows],
        [
            f"{OOD_VALIDATION} was used" + (f": {named}" if named else ""),
            f"AUROC in percent, lowest and highest, of id/test against a group's sets; at most {MOST_ROWS} of a set",
        ],
    )


def amp_table(results: Sequence[Result]) -> Table | None:
    """How far the precision of the pass moved each detector's scores against float32, over seeds; None if it did not.

    See `precision.shift`: the largest difference, their mean, the lowest rank correlation, and the largest difference
    of an AUROC.
    """
    shifts: dict[str, dict[str, Mapping[str, float]]] = {}
    for result in results:
        if AMP_SHIFT in result.provenance:
            shifts.setdefault(result.detector, {})[result.seed] = result.provenance[AMP_SHIFT]
    if not shifts:
        return None
    summaries: dict[str, Callable[[list[float]], float]] = {
        "largest": max,
        "mean": lambda values: float(np.mean(values)),
        "rank_correlation": min,
        "auroc": max,
    }
    rows = [["detector", "largest |difference|", "mean", "rank correlation", "AUROC (points)"]]
    for detector, by_seed in shifts.items():
        values = {name: [shift[name] for shift in by_seed.values() if name in shift] for name in summaries}
        rows.append([detector, *(f"{f(values[name]):.3g}" if values[name] else "-" for name, f in summaries.items())])
    first = next(iter(shifts.values()))
    count = sum(int(shift["rows"]) for shift in first.values())
    precision = next(result.provenance["amp"] for result in results if AMP_SHIFT in result.provenance)
    return Table(f"scores in {precision} against float32, on {count} rows that passed in both", rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of one length as text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = row
    return "  ".join([first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:])), last])


def _width() -> int:
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
