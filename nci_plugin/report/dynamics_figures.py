"""The figures of collapse along training, from trajectories and their analysis alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nci_plugin.collapse.registry import METRICS
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.conditions import by_group
from nci_plugin.dynamics.onset import Onset, OnsetRule
from nci_plugin.dynamics.predictors import IN_SAMPLE, ONE_CONDITION, ONE_RUN
from nci_plugin.dynamics.trajectory import FN, GROUPS, Trajectory
from nci_plugin.evaluation.drawn import DrawnFigure, draw_grid, short_names
from nci_plugin.report.class_figures import write_numbers
from nci_plugin.report.dynamics_tables import symbol
from nci_plugin.report.figures import DASHES, DOTTED, PALETTE, in_style, legend_below, written_as
from nci_plugin.report.panels import MARKS, Panel, draw_panels, epoch_panels, group_title

MANY = 12
"""From so many runs on none of them gets figures of its own."""


def figures(analysis: Analysis) -> Iterator[tuple[str, Figure | None]]:
    """Every figure with its path, without suffix: in ``<run>/`` those of each run, of none from MANY runs on.

    None is a figure of what was not measured.
    """
    runs: Sequence[Trajectory] = analysis.runs if len(analysis.runs) < MANY else ()
    for run in runs:
        yield f"{run.run}/collapse", collapse_figure(run, analysis.onsets[run.run], analysis.rule)
        yield f"{run.run}/auroc", auroc_figure(run, analysis.onsets[run.run])
    yield "fn_nc1", path_figure(analysis)
    yield "predictors", predictor_figure(analysis)
    yield "correlations", correlation_figure(analysis)


# -------------------------------------------------------------------- one run


@in_style
def collapse_figure(run: Trajectory, onset: Onset, rule: OnsetRule) -> Figure:
    """Collapse, norms, loss and accuracy against epochs, the onset marked; a panel an aspect."""
    drawn = [panel for panel in epoch_panels([run]) if not panel.is_auroc]
    across = min(4, len(drawn))
    figure = DrawnFigure(2.9 * across + 0.4, 2.5 * -(-len(drawn) // across) + 0.7)
    axes = _along_epochs(figure, drawn, run, onset, across)
    for axis, panel in zip(axes, drawn):
        if symbol(rule.metric) in panel.lines:
            axis.axhline(rule.threshold, **DOTTED)
    if onset.observed:
        outcome = f"onset at epoch {onset.epoch} (solid line): {rule}"
    else:
        outcome = f"{onset.outcome}, no onset by epoch {onset.epoch}: {rule}"
    figure.suptitle(f"Collapse along training, {short_names([run.run])[run.run]}\n{outcome}")
    return figure


@in_style
def auroc_figure(run: Trajectory, onset: Onset) -> Figure | None:
    """AUROC of every detector against epochs, a panel a group; None where none was measured."""
    drawn = [panel for panel in epoch_panels([run]) if panel.is_auroc]
    if not drawn:
        return None
    figure = DrawnFigure(3.3 * len(drawn) + 0.6, 3.4)
    _along_epochs(figure, drawn, run, onset, len(drawn))
    figure.suptitle(f"Detection along training, {short_names([run.run])[run.run]}")
    return figure


def _along_epochs(
    figure: Figure, panels: Sequence[Panel], run: Trajectory, onset: Onset, across: int
) -> Sequence[Axes]:
    """Draw panels of a run, its onset, and where the phase of the training changes; returns their axes."""
    axes, last = draw_panels(figure, panels, run.epochs.tolist(), across)
    for axis in axes:
        if onset.observed:
            axis.axvline(onset.epoch, color="0.25", linewidth=1)
        for before, after in zip(run.records, run.records[1:]):
            if before.phase != after.phase:
                axis.axvline(after.epoch, color="0.6", linewidth=0.8, linestyle="--")
    for axis in last:
        axis.set_xlabel("epoch")
    return axes


# -------------------------------------------------------------------- several runs


@in_style
def path_figure(analysis: Analysis) -> Figure:
    """fn against the rule's metric, a path a run, onsets marked and fn* of the group as a band; a panel a group."""
    groups = by_group(analysis.runs)
    few = len(analysis.runs) <= len(PALETTE)
    short = short_names(run.run for run in analysis.runs)
    styles = dict(zip((run.run for run in analysis.runs), cycle(zip(PALETTE, DASHES))))
    across = min(3, len(groups))
    height = 3.2 * -(-len(groups) // across) + 0.5 + (0.2 * len(analysis.runs) if few else 0)
    figure = DrawnFigure(max(3.9 * across + 0.4, 6.0), height)
    axes = draw_grid(figure, len(groups), across)
    for axis, reference in zip(axes, analysis.references):  # a panel a group
        runs = groups[reference.group]
        for run in runs:
            colour, line = styles[run.run] if few else ("0.55", "-")
            fn, metric = run.series(FN), run.series(analysis.rule.metric)
            label = short[run.run] if few else None
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
        axis.set_title(f"{', '.join(reference.group)}: {reference.n} of {len(runs)} runs with an onset")
        axis.set(xlabel="mean length of the features (fn)", ylabel=METRICS[analysis.rule.metric].label)
    if few:
        handles = [each for axis in axes for each in axis.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", fontsize=7, frameon=False)
    figure.suptitle("Paths of training; dots: onsets, line and band: fn* ± sd over runs")
    return figure


@in_style
def predictor_figure(analysis: Analysis) -> Figure | None:
    """Lead, mean absolute error and concordance of every predictor with their intervals, a row of panels a group."""
    groups = list(dict.fromkeys(each.group for each in analysis.skills))
    if not groups:
        return None
    names = list(dict.fromkeys(each.predictor for each in analysis.skills))[::-1]
    figure = DrawnFigure(10.5, (0.38 * len(names) + 1.0) * len(groups) + 0.6)
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
            axis.set_xlabel(title)
            axis.grid(axis="y")
        row[0].set_yticks(range(len(names)), names, parse_math=False)
        row[0].set_ylim(-0.6, len(names) - 0.4)
        row[2].set_xlim(-0.05, 1.05)
        row[1].set_title(", ".join(group))
    for left_out, mark, colour in zip(ways, MARKS, PALETTE):
        axes[0][0].plot([], [], mark, color=colour, markersize=5, label=left_out)
    legend_below(figure, axes[0][0], 3)
    figure.suptitle("What foretells the onset; bars: bootstrap intervals over runs")
    return figure


@in_style
def correlation_figure(analysis: Analysis) -> Figure | None:
    """Spearman's rho of every collapse metric with every detector's AUROC, a panel a group; None without any."""
    groups = [group for group in GROUPS if any(each.group == group for each in analysis.correlations)]
    if not groups:
        return None
    metrics = list(dict.fromkeys(each.metric for each in analysis.correlations))
    detectors = list(dict.fromkeys(each.detector for each in analysis.correlations))
    figure = DrawnFigure(2.6 * len(groups) + 1.8, 0.33 * len(metrics) + 1.6)
    axes = draw_grid(figure, len(groups), len(groups), sharey=True)
    for axis, group in zip(axes, groups):
        rho = np.full((len(metrics), len(detectors)), np.nan)
        for each in analysis.correlations:
            if each.group == group and each.rho is not None:
                rho[metrics.index(each.metric), detectors.index(each.detector)] = each.rho
        # Light in the middle, and blue and red are apart for colour-blind readers too.
        image = axis.imshow(rho, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        write_numbers(axis, image, rho, "+.2f")
        names = list(written_as(detectors).values())
        axis.set_xticks(range(len(detectors)), names, rotation=35, ha="right", parse_math=False)
        axis.set_title(group_title(group))
    axes[0].set_yticks(range(len(metrics)), map(symbol, metrics))
    figure.colorbar(image, ax=axes, shrink=0.8, label="Spearman's rho")
    checkpoints = max(each.n for each in analysis.correlations)
    count = max(each.runs for each in analysis.correlations)
    runs = "one run" if count == 1 else f"{count} runs"
    figure.suptitle(f"Collapse and AUROC, Spearman's rho over {checkpoints} checkpoints of {runs}")
    return figure
