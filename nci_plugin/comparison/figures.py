"""Comparisons as figures: differences with their intervals, and a critical-difference diagram."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nci_plugin.comparison.multiple import SIGNIFICANT
from nci_plugin.comparison.over_benchmarks import OverBenchmarks
from nci_plugin.comparison.records import Comparison, Difference
from nci_plugin.comparison.tables import MOST_TIES
from nci_plugin.evaluation.drawn import DrawnFigure, draw_grid, short_names
from nci_plugin.report.figures import in_style

APART, TIED = "#0072B2", "#7F7F7F"
"""Blue disks for a difference, grey rings for none (Okabe & Ito): apart for colour-blind readers and in grey."""

CAPTIONS = {False: "dots on one bar cannot be told apart", True: "dots cannot be told apart from the best"}


@in_style
def forest_figure(comparison: Comparison) -> Figure:
    """Differences to one detector, the one that all were compared against or else each group's best, by group."""
    rows = {group: _to_reference(comparison, group) for group in comparison.groups}
    longest = max(len(each) for _, each in rows.values())
    figure = DrawnFigure(4.4 * len(rows) + 1.6, 0.23 * longest + 1.5)
    label = comparison.choice.of_metric.label
    axes = draw_grid(figure, len(rows), len(rows))
    short = short_names(value.detector for value in comparison.ranked(comparison.groups[0]))
    for axis, (group, (reference, differences)) in zip(axes, rows.items()):
        for place, each in enumerate(reversed(differences)):
            apart = each.adjusted < SIGNIFICANT
            bars = [[max(0.0, each.points - each.low)], [max(0.0, each.high - each.points)]]
            colour, inside = (APART, APART) if apart else (TIED, "white")
            axis.errorbar(
                [each.points], [place], xerr=bars, fmt="o", markersize=5, elinewidth=1, color=colour,
                markerfacecolor=inside,
            )  # fmt: skip
        axis.axvline(0, color="0.3", linewidth=0.8)
        axis.set_yticks(range(len(differences)), [short[each.first] for each in reversed(differences)])
        axis.set(ylim=(-0.7, len(differences) - 0.3), title=f"{group}: {label} minus\nthat of {short[reference]}")
        axis.set_xlabel("points, 95 % interval; filled = adjusted p < 0.05")
        axis.grid(axis="y")
    figure.suptitle(f"{comparison.benchmark}, {comparison.choice.setting}")
    return figure


def _to_reference(comparison: Comparison, group: str) -> tuple[str, list[Difference]]:
    """The reference, and the others minus it in the order of their values, best first."""
    order = [value.detector for value in comparison.ranked(group)]
    reference = comparison.choice.against or order[0]
    found = {}
    for each in comparison.differences:
        if each.group == group and reference in (each.first, each.second):
            turned = each if each.second == reference else _turned(each)
            found[turned.first] = turned
    return reference, [found[name] for name in order if name != reference]


def _turned(each: Difference) -> Difference:
    return Difference(each.second, each.first, each.group, -each.points, -each.high, -each.low, each.p, each.adjusted)


@in_style
def value_figure(comparison: Comparison) -> Figure:
    """Detectors on the axis of the metric, the best to the right, and bars whose dots cannot be told apart."""
    groups = comparison.groups
    count = len(comparison.ranked(groups[0]))
    figure = DrawnFigure(7.5, len(groups) * (0.19 * count + 1.6))
    higher, many = comparison.choice.of_metric.higher_is_better, _many(list(comparison.ties.values()))
    for axis, group in zip(draw_grid(figure, len(groups), 1), groups):
        places = {value.detector: value.value for value in comparison.ranked(group)}
        _diagram(axis, places, comparison.ties[group], best_is_large=higher, only_best=many)
        axis.set_xlabel(f"{group}: {comparison.choice.of_metric.label} (%)")
    figure.suptitle(f"{comparison.benchmark}, {comparison.choice.setting}: {CAPTIONS[many]}")
    return figure


@in_style
def rank_figure(tests: Sequence[OverBenchmarks]) -> Figure:
    """Demsar's diagram: mean ranks, and bars whose dots Conover-Holm cannot tell apart."""
    count, many = max(len(test.mean_ranks) for test in tests), _many([test.ties for test in tests])
    figure = DrawnFigure(7.5, len(tests) * (0.19 * count + 1.6))
    for axis, test in zip(draw_grid(figure, len(tests), 1), tests):
        _diagram(axis, dict(test.mean_ranks), test.ties, best_is_large=False, only_best=many)
        axis.set_xlabel(f"{test.group}: mean rank over {len(test.benchmarks)} benchmarks")
    figure.suptitle(CAPTIONS[many])
    return figure


def _many(ties: Sequence[Sequence[Sequence[str]]]) -> bool:
    """Whether a panel has too many groups of ties to be drawn."""
    return max(map(len, ties)) > MOST_TIES


def _diagram(
    axis: Axes, places: dict[str, float], ties: Sequence[Sequence[str]], best_is_large: bool, only_best: bool
) -> None:
    """Names to both sides of an axis, as Demsar draws them; ``places`` are best first.

    ``only_best``: one bar, of all that tie with the best, in the place of one for each group of ``ties``.
    """
    names, short = list(places), short_names(places)
    better, worse = names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :][::-1]
    low, high = min(places.values()), max(places.values())
    margin = 0.05 * (high - low) or 1.0
    best_end, worst_end = (high + margin, low - margin) if best_is_large else (low - margin, high + margin)
    axis.set_xlim(worst_end, best_end)  # the best to the right
    with_best = {name for group in ties if names[0] in group for name in group}
    shown = [[name for name in names if name in with_best]] if only_best else ties
    bars = [run for run in shown if len(run) > 1]
    for level, run in enumerate(bars):
        depth = -0.35 - 0.3 * level
        axis.plot([places[name] for name in run], [depth] * len(run), color="black", linewidth=1.5, marker=".")
    start = 0.6 + 0.3 * len(bars)
    for side, end, align in ((better, best_end, "left"), (worse, worst_end, "right")):
        for row, name in enumerate(side):
            depth = -start - 0.8 * row
            axis.plot([places[name]] * 2 + [end], [0, depth, depth], color=APART, linewidth=0.8)
            gap = (4 if align == "left" else -4, 0)
            axis.annotate(
                f"{short[name]} {places[name]:.2f}", (end, depth), gap, textcoords="offset points", ha=align,
                va="center", fontsize=8,
            )  # fmt: skip
    axis.set_ylim(-start - 0.8 * len(better), 0)
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.spines[["left", "right", "bottom"]].set_visible(False)
    axis.set_yticks([])
