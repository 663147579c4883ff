"""Comparisons as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase

import numpy as np
import pandas as pd

from nci_plugin.benchmarks.benchmark import Split
from nci_plugin.comparison.compare import values
from nci_plugin.comparison.over_benchmarks import OverBenchmarks
from nci_plugin.comparison.records import Choice, Comparison, Difference
from nci_plugin.comparison.samples import Samples
from nci_plugin.comparison.worst import LEAST, GroupScore
from nci_plugin.evaluation.results import formatted
from nci_plugin.metrics.columns import METRIC_COLUMNS, OOD
from nci_plugin.report.tables import column_names, of_groups
from nci_plugin.report.terminal import aligned, folded

MOST_PAIRS = 45
"""More pairs of a group are not printed: those of its best detector are."""

FEW_SAMPLES = 30
"""With fewer in a split, normal and bootstrap intervals are rough."""

MOST_TIES = 12
"""More groups of ties than this cannot be read as letters or as bars; the JSON file has them."""


def metrics_text(
    samples: Samples,
    names: Sequence[str],
    choice: Choice,
    intervals: bool,
    by_data_set: bool = False,
    display: Mapping[str, str] | None = None,
) -> str:
    """A table of chosen metrics: a row a detector, columns as of `setting_table`, and how intervals were made.

    Metrics of covariate-shifted samples stand in the table of the full spectrum alone; without a column it is empty.
    Cells are ``mean±std`` over networks, or with ``intervals`` ``mean [low, high]`` at 95 %. Detectors keep the order
    of the samples.
    """
    asked = {
        name: METRIC_COLUMNS[name] for name in names if METRIC_COLUMNS[name].samples == OOD or choice.setting == "fsood"
    }
    cells: dict[tuple[str, str], dict[str, str]] = {}
    all_sets: dict[str, list[str]] = {}
    over_seeds, methods = len(samples.networks) > 1, []
    for name, metric in asked.items():
        own = replace(choice, metric=name)
        made = values(samples, own, intervals)
        groups = samples.groups(metric, choice.setting)
        sets = {group: [Split.parse(each.ood_split).name for each in pairings] for group, pairings in groups.items()}
        all_sets.update(sets)
        for value in made:
            if value.group in column_names(sets):
                text = formatted(np.array(value.by_network), over_seeds, "±")
                text = f"{value.value:.2f} {_interval(value.low, value.high)}" if intervals else text
                cells.setdefault((value.group, metric.label), {})[value.detector] = text
        shared = [f"{choice.ood_share:g} of all inputs OOD"] if metric.needs_wrong else []
        made_by = [own.intervals(samples.networks)] if intervals else []
        methods += [f"{metric.label}: {'; '.join(shared + made_by)}"] if shared + made_by else []
    if not cells:
        return ""
    order = dict.fromkeys(group for group, _ in cells)
    columns = [column for group in order for column in cells if column[0] == group]
    frame = pd.DataFrame({column: cells[column] for column in columns}, index=samples.detectors)
    return "\n".join([of_groups(frame, all_sets, by_data_set, display), *map(folded, methods)])


def comparison_text(comparison: Comparison) -> str:
    """Values and differences of every group."""
    choice = comparison.choice
    networks = ", ".join(comparison.networks) if len(comparison.networks) > 1 else "one network"
    title = f"{comparison.benchmark}, {choice.setting}: {choice.of_metric.label} in percent, {networks}"
    shared = [f", {choice.ood_share:g} of all inputs OOD"] if choice.of_metric.needs_wrong else []
    head = ["".join([title, *shared]), comparison.method]
    few = [f"{split} ({size})" for split, size in comparison.samples.items() if size < FEW_SAMPLES]
    if few:
        head.append(f"fewer than {FEW_SAMPLES} samples, so intervals are rough: {', '.join(few)}")
    lines = list(map(folded, head))
    for group in comparison.groups:
        lines += ["", _values(comparison, group), "", _differences(comparison, group)]
    return "\n".join(lines)


def _values(comparison: Comparison, group: str) -> str:
    ranked = comparison.ranked(group)
    title, marks = _marks(comparison.ties.get(group, ()), ranked[0].detector)
    rows = [[group, comparison.choice.of_metric.label, "95 % interval", *([title] * bool(title))]]
    for value in ranked:
        mark = [marks.get(value.detector, "")] * bool(title)
        rows.append([value.detector, f"{value.value:.2f}", _interval(value.low, value.high), *mark])
    return aligned(rows)


def _marks(ties: Sequence[Sequence[str]], best: str) -> tuple[str, dict[str, str]]:
    """A column of ties, its title and its cells by detector: letters, or only who ties with the best."""
    if not ties:
        return "", {}
    if len(ties) <= MOST_TIES:
        return "same letter = tie", tie_letters(ties)
    return "ties with the best", {name: "=" for group in ties if best in group for name in group}


def _differences(comparison: Comparison, group: str) -> str:
    own = [each for each in comparison.differences if each.group == group]
    note = []
    if comparison.choice.against is None and len(own) > MOST_PAIRS:
        best = comparison.ranked(group)[0].detector
        note = [f"the other of {len(own)} pairs: --json FILE, or --against NAME"]
        own = [each for each in own if best in (each.first, each.second)]
    header = [f"{group}: first - second", "points", "95 % interval", "p", "adjusted p"]
    rows = [header, *([f"{each.first} - {each.second}", *_numbers(each)] for each in own)]
    text = aligned(rows)
    if "\n\n" in text:  # too wide for one part: the names on a line of their own
        numbers = aligned([["", *row[1:]] for row in rows]).splitlines()
        text = "\n".join(line for row, cells in zip(rows, numbers) for line in (row[0], f"  {cells}"))
    return "\n".join([text, *note])


def _numbers(difference: Difference) -> list[str]:
    interval = _interval(difference.low, difference.high, "+")
    return [f"{difference.points:+.2f}", interval, p_text(difference.p), p_text(difference.adjusted)]


def _interval(low: float, high: float, sign: str = "") -> str:
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]"


def p_text(p: float) -> str:
    """A p value in few characters; ``-`` where there is none."""
    if p != p:
        return "-"
    return f"{p:.3f}" if p >= 0.0005 else "<0.0005"


def tie_letters(ties: Sequence[Sequence[str]]) -> dict[str, str]:
    """The letters of the groups, MOST_TIES at most, that each detector is in; with a common letter they tie."""
    letters: dict[str, str] = {}
    for letter, group in zip(ascii_lowercase, ties):
        for name in group:
            letters[name] = letters.get(name, "") + letter
    return letters


def over_benchmarks_text(tests: Sequence[OverBenchmarks]) -> str:
    """Friedman's test of every group, with mean ranks."""
    parts = []
    for test in tests:
        title = f"{test.group} over {len(test.benchmarks)} benchmarks"
        if test.reason:
            parts.append(f"{title}: {test.reason}")
            continue
        assert test.p is not None
        title_of_ties, marks = _marks(test.ties, test.mean_ranks[0][0])
        rows = [["detector", "mean rank", title_of_ties]]
        rows += [[name, f"{rank:.2f}", marks.get(name, "")] for name, rank in test.mean_ranks]
        method = f"Friedman chi2 {test.statistic:.2f}, p {p_text(test.p)}; pairs by Conover-Holm"
        parts.append("\n".join([folded(f"{title}: {method}"), aligned(rows)]))
    return "\n\n".join(parts)


def worst_text(benchmark: str, detector: str, groups: Sequence[GroupScore]) -> str:
    """The worst groups of a detector."""
    title = f"{benchmark}, {detector}: worst groups"
    if not groups:
        return f"{title}: none has {LEAST} ID and {LEAST} OOD samples"
    rows = [["group", "class", "ID", "OOD", "AUROC", "95 % interval", "FPR"]]
    for each in groups:
        numbers = [f"{each.auroc:.2f}", _interval(each.low, each.high), f"{each.fpr:.2f}"]
        rows.append([each.kind, each.name, str(each.n_id), str(each.n_ood), *numbers])
    notes = [
        "FPR: share of OOD samples accepted where 95 % of all ID samples are",
        "intervals hold at once for all groups that these were picked from (Bonferroni)",
    ]
    return "\n".join([title, aligned(rows, left=2), *map(folded, notes)])
