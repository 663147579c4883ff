"""The figures of collapse along training, from trajectories and their analysis alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nci_plugin.collapse.registry import EPOCHS, METRICS, columns
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import by_group
from nci_plugin.dynamics.detection import measured
from nci_plugin.dynamics.onset import Onset, OnsetRule
from nci_plugin.dynamics.predictors import IN_SAMPLE, ONE_CONDITION, ONE_RUN
from nci_plugin.dynamics.trajectory import FN, GROUPS, Trajectory
from nci_plugin.report.dynamics_tables import symbol
from nci_plugin.report.figures import DASHES, PALETTE, legend_below, new_figure
from nci_plugin.report.names import display_name
from nci_plugin.report.panels import BESIDES, LOGARITHMIC, MARKS, group_title

DOTTED: Any = {"color": "0.6", "linewidth": 0.8, "linestyle": ":"}

MANY = 12
"""From so many runs on none of them gets figures of its own."""


def run_figures(run: Trajectory, onset: Onset, rule: OnsetRule) -> Iterator[tuple[str, Figure]]:
    """Name and figure: collapse against epochs, and AUROC against epochs where it was measured."""
    yield "collapse", collapse_figure(run, onset, rule)
    figure = auroc_figure(run, onset)
    if figure is not None:
        yield "auroc", figure


def analysis_figures(analysis: Analysis) -> Iterator[tuple[str, Figure]]:
    """Name and figure of what all runs say together."""
    yield "fn_nc1", path_figure(analysis)
    for name, draw in (("predictors", predictor_figure), ("correlations", correlation_figure)):
        figure = draw(analysis)
        if figure is not None:
            yield name, figure


# -------------------------------------------------------------------- one run


def collapse_figure(run: Trajectory, onset: Onset, rule: OnsetRule) -> Figure:
    """Collapse, norms, loss and accuracy against epochs, the onset marked; a panel an aspect."""
    panels: dict[str, dict[str, str]] = {}
    for name, metric in columns(EPOCHS).items():
        panels.setdefault(metric.aspect, {})[name] = symbol(name)
    logged = {
        title: {name: label for name, label in names.items() if run.logs(name)}
        for title, names in {**panels, **BESIDES}.items()
    }
    panels = {title: names for title, names in logged.items() if names}
    figure, axes = _panels(len(panels), 4, 2.9, 2.5, 0.7, sharex=True)
    for axis, (title, names) in zip(axes, panels.items()):
        _lines(axis, run, onset, {label: run.series(name) for name, label in names.items()})
        if title in LOGARITHMIC:
            axis.set_yscale("log", nonpositive="mask")
        if rule.metric in names:
            axis.axhline(rule.threshold, **DOTTED)
        axis.set_title(title, fontsize=9)
        if len(names) > 1:
            axis.legend(fontsize=7)
    figure.supxlabel("epoch", fontsize=9)
    if onset.observed:
        outcome = f"onset at epoch {onset.epoch} (solid line): {rule}"
    else:
        outcome = f"{onset.outcome}, no onset by epoch {onset.epoch}: {rule}"
    figure.suptitle(f"Collapse along training, {run.run}\n{outcome}", fontsize=10)
    return figure


def auroc_figure(run: Trajectory, onset: Onset) -> Figure | None:
    """AUROC of every detector against epochs, a panel a group; None where none was measured."""
    known = {group for _, group, _ in measured(run)}
    groups = [group for group in GROUPS if group in known]
    if not groups:
        return None
    detectors = dict.fromkeys(name for record in run.records for name in record.auroc)
    figure = new_figure(3.3 * len(groups) + 0.6, 3.4)
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, groups):
        _lines(axis, run, onset, {display_name(name): run.auroc(name, group) for name in detectors})
        axis.axhline(50, **DOTTED)
        axis.set_title(group_title(group), fontsize=9)
        axis.set_xlabel("epoch", fontsize=9)
    axes[0].set_ylabel("AUROC (%)", fontsize=9)
    axes[0].set_ylim(max(0.0, axes[0].get_ylim()[0]), 101)
    legend_below(figure, axes[0], 7)
    figure.suptitle(f"Detection along training, {run.run}", fontsize=10)
    return figure


def _panels(
    count: int, most: int, width: float, height: float, more: float, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels of some inches, at most so many in a row, and its axes; what is over is empty."""
    across = min(most, count)
    rows = -(-count // across)
    figure = new_figure(width * across + 0.4, height * rows + more)
    axes = list(figure.subplots(rows, across, sharex=sharex, squeeze=False).flat)
    for axis in axes[count:]:
        axis.axis("off")
    return figure, axes[:count]


def _lines(axis: Axes, run: Trajectory, onset: Onset, series: Mapping[str, np.ndarray]) -> None:
    """Some series against epochs, the onset, and where the phase of the training changes."""
    marker_every = max(1, len(run.epochs) // 8)
    for (label, values), colour, line, mark in zip(series.items(), cycle(PALETTE), cycle(DASHES), cycle(MARKS)):
        axis.plot(
            run.epochs, values, color=colour, linestyle=line, linewidth=1.3, marker=mark, markersize=3.5,
            markevery=marker_every, label=label,
        )  # fmt: skip
    axis.tick_params(labelsize=8, which="both")
    axis.grid(color="0.93")
    axis.set_axisbelow(True)
    if onset.observed:
        axis.axvline(onset.epoch, color="0.25", linewidth=1)
    for before, after in zip(run.records, run.records[1:]):
        if before.phase != after.phase:
            axis.axvline(after.epoch, color="0.6", linewidth=0.8, linestyle="--")


# -------------------------------------------------------------------- several runs


def path_figure(analysis: Analysis) -> Figure:
    """fn against the rule's metric, a path a run, onsets marked and fn* of the group as a band; a panel a group."""
    groups = by_group(analysis.runs)
    few = len(analysis.runs) <= len(PALETTE)
    styles = dict(zip((run.run for run in analysis.runs), cycle(zip(PALETTE, DASHES))))
    figure, axes = _panels(len(groups), 3, 3.9, 3.2, 0.5 + (0.2 * len(analysis.runs) if few else 0))
    figure.set_figwidth(max(figure.get_figwidth(), 6.0))
    for axis, reference in zip(axes, analysis.references):  # a panel a group
        runs = groups[reference.group]
        for run in runs:
            colour, line = styles[run.run] if few else ("0.55", "-")
            fn, metric = run.series(FN), run.series(analysis.rule.metric)
            label = run.run if few else None
            axis.plot(fn, metric, color=colour, linewidth=1 if few else 0.6, label=label, linestyle=line)
            onset = analysis.onsets[run.run]
            if onset.observed:
                at = run.epochs == onset.epoch
                axis.plot(fn[at], metric[at], "o", color=colour if few else PALETTE[1], markersize=5)
        if reference.mean is not None:
            axis.axvline(reference.mean, color="0.25", linewidth=0.9)
            if reference.sd is not None:
                axis.axvspan(reference.mean - reference.sd, reference.mean + reference.sd, color="0.88", zorder=0)
        axis.axhline(analysis.rule.threshold, **DOTTED)
        axis.set_yscale("log", nonpositive="mask")
        axis.set_title(f"{', '.join(reference.group)}: {reference.n} of {len(runs)} runs with an onset", fontsize=9)
        axis.set_xlabel("mean length of the features (fn)", fontsize=8)
        axis.set_ylabel(METRICS[analysis.rule.metric].label, fontsize=8)
        axis.tick_params(labelsize=8, which="both")
    if few:
        handles = [each for axis in axes for each in axis.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", fontsize=7, frameon=False)
    figure.suptitle("Paths of training; dots: onsets, line and band: fn* ± sd over runs", fontsize=10)
    return figure


def predictor_figure(analysis: Analysis) -> Figure | None:
    """Lead, mean absolute error and concordance of every predictor with their intervals, a row of panels a group."""
    groups = list(dict.fromkeys(each.group for each in analysis.skills))
    if not groups:
        return None
    names = list(dict.fromkeys(each.predictor for each in analysis.skills))[::-1]
    figure = new_figure(10.5, (0.38 * len(names) + 1.0) * len(groups) + 0.6)
    axes = figure.subplots(len(groups), 3, sharey=True, squeeze=False)
    titles = {"lead": "lead (epochs)", "mae": "MAE (epochs)", "concordance": "concordance"}
    ways = (IN_SAMPLE, ONE_RUN, ONE_CONDITION)
    for row, group in zip(axes, groups):
        for axis, (field, title) in zip(row, titles.items()):
            for each in analysis.skills:
                value, bounds = getattr(each, field), getattr(each, f"{field}_interval")
                if each.group != group or value is None:
                    continue
                place = ways.index(each.left_out)
                height = names.index(each.predictor) + 0.2 * (1 - place)
                if bounds is not None:
                    axis.plot(bounds, [height, height], color=PALETTE[place], linewidth=1)
                axis.plot(value, height, MARKS[place], color=PALETTE[place], markersize=5)
            axis.axvline(0.5 if field == "concordance" else 0, **DOTTED)
            axis.set_xlabel(title, fontsize=9)
            axis.grid(axis="y", color="0.93")
            axis.set_axisbelow(True)
            axis.tick_params(labelsize=8)
        row[0].set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        row[0].set_ylim(-0.6, len(names) - 0.4)
        row[2].set_xlim(-0.05, 1.05)
        row[1].set_title(", ".join(group), fontsize=9)
    for left_out, mark, colour in zip(ways, MARKS, PALETTE):
        axes[0][0].plot([], [], mark, color=colour, markersize=5, label=left_out)
    legend_below(figure, axes[0][0], 3)
    figure.suptitle("What foretells the onset; bars: bootstrap intervals over runs", fontsize=10)
    return figure


def correlation_figure(analysis: Analysis) -> Figure | None:
    """Spearman's rho of every collapse metric with every detector's AUROC, a panel a group; None without any."""
    groups = [group for group in GROUPS if any(each.group == group for each in analysis.correlations)]
    if not groups:
        return None
    metrics = list(dict.fromkeys(each.metric for each in analysis.correlations))
    detectors = list(dict.fromkeys(each.detector for each in analysis.correlations))
    figure = new_figure(2.6 * len(groups) + 1.8, 0.33 * len(metrics) + 1.6)
    axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, groups):
        rho = np.full((len(metrics), len(detectors)), np.nan)
        for each in analysis.correlations:
            if each.group == group and each.rho is not None:
                rho[metrics.index(each.metric), detectors.index(each.detector)] = each.rho
        # Light in the middle, and blue and red are apart for colour-blind readers too.
        image = axis.imshow(rho, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for (y, x), value in np.ndenumerate(rho):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 else "black"
                axis.text(x, y, f"{value:+.2f}", ha="center", va="center", fontsize=6.5, color=colour)
        axis.set_xticks(
            range(len(detectors)), map(display_name, detectors), rotation=35, ha="right", fontsize=8, parse_math=False
        )
        axis.set_title(group_title(group), fontsize=9)
    axes[0].set_yticks(range(len(metrics)), map(symbol, metrics), fontsize=8)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="Spearman's rho")
    checkpoints = max(each.n for each in analysis.correlations)
    count = max(each.runs for each in analysis.correlations)
    runs = "one run" if count == 1 else f"{count} runs"
    figure.suptitle(f"Collapse and AUROC, Spearman's rho over {checkpoints} checkpoints of {runs}", fontsize=10)
    return figure


def of_runs(analysis: Analysis) -> Iterator[tuple[Trajectory, str, Figure]]:
    """`run_figures` of every run, of none from MANY runs on."""
    runs: Sequence[Trajectory] = analysis.runs if len(analysis.runs) < MANY else ()
    for run in runs:
        for name, figure in run_figures(run, analysis.onsets[run.run], analysis.rule):
            yield run, name, figure
