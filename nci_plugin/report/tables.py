"""Tables for a terminal, drawn from Results alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nci_plugin.benchmarks.benchmark import GROUP_ROWS
from nci_plugin.results import METRICS, Result, formatted, is_over_seeds, table

TITLES = {"ood": "standard OOD", "fsood": "full-spectrum OOD (covariate-shifted samples count as ID)"}
WIDTH_WITHOUT_TERMINAL = 160
"""Characters that a table may take in a file or a pipe; a wider one is split, as in a narrower terminal."""


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
    """Rows = detectors, columns = the metrics of each group and data set; ID accuracy stands once, in the title.

    A group of one data set is that data set: the two share their columns.
    """
    names = detectors_by_near_auroc(results, setting)
    if not names:
        return ""
    over_seeds = is_over_seeds(results)
    tables = {name: table(results, name, setting) for name in names}
    headers = _column_headers([result for result in results if result.setting == setting])
    columns = [(row, metric) for row in headers for metric in METRICS.values() if metric != METRICS["acc"]]
    cells = [[formatted(tables[name].loc[row, metric], over_seeds, "±") for row, metric in columns] for name in names]
    labels = pd.MultiIndex.from_tuples([(headers[row], metric) for row, metric in columns])
    frame = pd.DataFrame(cells, index=names, columns=labels)
    first = next(result for result in results if result.setting == setting)
    seeds = list(dict.fromkeys(result.seed for result in results))
    accuracy = formatted(tables[names[0]].iloc[0][METRICS["acc"]], over_seeds)
    networks = f"mean ± std over {', '.join(seeds)}" if over_seeds else "one network"
    title = f"{first.benchmark}, {TITLES[setting]}: ACC {accuracy} on {first.n_id} ID samples; in percent, {networks}"
    return f"{title}\n{frame.to_string(line_width=_width())}"


def _column_headers(results: Sequence[Result]) -> dict[str, str]:
    """Rows of OpenOOD's table -> column headers, groups first; ``nearood = cifar100`` where that is the only set."""
    sets: dict[str, list[str]] = {}
    for result in results:
        if result.dataset not in GROUP_ROWS.values():
            names = sets.setdefault(GROUP_ROWS[result.group], [])
            names += [result.dataset] * (result.dataset not in names)
    headers = {group: f"{group} = {names[0]}" if len(names) == 1 else group for group, names in sets.items()}
    headers.update({name: name for names in sets.values() if len(names) > 1 for name in names})
    return headers


def choices_table(results: Sequence[Result]) -> str:
    """The hyper-parameters of each detector, how they were chosen, and the seconds it took (mean over seeds)."""
    rows = []
    for name in detectors_by_near_auroc(results, results[0].setting):
        by_seed = {result.seed: result for result in results if result.detector == name}
        seconds = {
            phase: np.mean([result.seconds[phase] for result in by_seed.values()])
            for phase in ("fit", "search", "score")
        }
        rows.append([name, *(f"{value:.2f}" for value in seconds.values()), _choice(by_seed)])
    widths = [
        max(len(row[column]) for row in [*rows, ["detector", "fit s", "search s", "score s"]]) for column in range(4)
    ]
    header = ["detector", "fit s", "search s", "score s", "hyper-parameters, and how they were chosen"]
    return "\n".join(_aligned(row, widths) for row in [header, *rows])


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
    return chosen if chosen == "none" else f"{chosen} ({how})"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers, last = row
    return "  ".join([first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:])), last])


def _width() -> int:
    return shutil.get_terminal_size((WIDTH_WITHOUT_TERMINAL, 24)).columns
