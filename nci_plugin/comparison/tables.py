"""Comparisons as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_lowercase

from nci_plugin.comparison.compare import FEW_SAMPLES, Comparison, Difference
from nci_plugin.comparison.over_benchmarks import OverBenchmarks
from nci_plugin.comparison.worst import LEAST, GroupScore
from nci_plugin.report.tables import aligned

WIDTH = 80
MOST_PAIRS = 45
"""More pairs of a group are not printed: those of its best detector are."""


def comparison_text(comparison: Comparison) -> str:
    """Values and differences of every group."""
    choice = comparison.choice
    networks = ", ".join(comparison.networks) if len(comparison.networks) > 1 else "one network"
    title = f"{comparison.benchmark}, {choice.setting}: {choice.of_metric.label} in percent, {networks}"
    shared = [f", {choice.ood_share:g} of all inputs OOD"] if choice.of_metric.needs_wrong else []
    lines = ["".join([title, *shared]), comparison.method]
    few = [f"{split} ({size})" for split, size in comparison.samples.items() if size < FEW_SAMPLES]
    if few:
        lines.append(f"fewer than {FEW_SAMPLES} samples, so intervals are rough: {', '.join(few)}")
    for group in comparison.groups:
        lines += ["", _values(comparison, group), "", _differences(comparison, group)]
    return "\n".join(lines)


def _values(comparison: Comparison, group: str) -> str:
    letters = tie_letters(comparison.ties.get(group, ()))
    rows = [[group, comparison.choice.of_metric.label, "95 % interval", *(["same letter = tie"] * bool(letters))]]
    for value in comparison.ranked(group):
        tie = [letters[value.detector]] if letters else []
        rows.append([value.detector, f"{value.value:.2f}", _interval(value.low, value.high), *tie])
    return aligned(rows)


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
    if max(map(len, text.splitlines())) > WIDTH:  # the names on a line of their own
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
    """The letters of the runs that each detector is in: two without a common letter differ."""
    letters: dict[str, str] = {}
    for place, run in enumerate(ties):
        turn, letter = divmod(place, len(ascii_lowercase))
        for name in run:
            letters[name] = letters.get(name, "") + ascii_lowercase[letter] + (str(turn) if turn else "")
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
        letters = tie_letters(test.ties)
        rows = [["detector", "mean rank", "same letter = tie"]]
        rows += [[name, f"{rank:.2f}", letters[name]] for name, rank in test.mean_ranks]
        method = f"Friedman chi2 {test.statistic:.2f}, p {p_text(test.p)}; pairs by Conover-Holm"
        parts.append("\n".join([f"{title}: {method}", aligned(rows)]))
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
    return "\n".join([title, aligned(rows), "FPR: share of OOD samples accepted where 95 % of all ID samples are"])
