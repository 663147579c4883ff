"""Scores of ID and OOD samples: histograms and ROC curves, from stored scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import CSID, FAR, GROUP_ROWS, NEAR, TEST, Split
from nci_plugin.checks import PluginError
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.evaluation.drawn import DrawnFigure, draw_chance, draw_densities, draw_grid, draw_roc, short_names
from nci_plugin.evaluation.results import Result
from nci_plugin.report.diagnosis_files import Stored
from nci_plugin.report.figures import DASHES, PALETTE, in_style, legend_below, looks
from nci_plugin.report.names import display_name

SCORE_COLOURS = dict(zip(DETECTORS, PALETTE))
SCORE_DASHES = dict(zip(DETECTORS, DASHES))
UNITS = {
    "nc1": "-distance to its class mean (in std)",
    "nc2": "share in the span of the class means",
    "nc3": "cosine with its class's weight",
    "nc4": "lead of its class mean (feature units)",
    "nc5": "NECO's ratio",
    "pscore": "length of the weight along the feature",
    "feature_norm": "sum of its features (feature units)",
}
"""The score of each of a diagnosis's detectors in words."""

FPR_LABEL, TPR_LABEL = "ID samples called OOD (%)", "OOD samples found (%)"
"""The axes of ROC curves."""


def suptitle(figure: Figure, stored: Stored, subject: str) -> None:
    """Name the subject, the benchmark, the network and its number of classes."""
    record = stored.record
    network = stored.name if record.seed else "one network"
    figure.suptitle(f"{subject}\n{record.benchmark}, {network}, K = {len(record.collapse.classes)}")


@in_style
def score_histograms(stored: Stored, group: str) -> Figure | None:
    """Histograms of every score on the ID test split and on the sets of ``csid``, ``near`` or ``far``."""
    known = {name: by_split for name, by_split in stored.scores.items() if members(by_split, group)}
    if not known:
        return None
    across = 4
    figure = DrawnFigure(10.4, 2.15 * -(-len(known) // across) + 0.8)
    axes = draw_grid(figure, len(known), across)
    for axis, (name, by_split) in zip(axes, known.items()):
        short = short_names(members(by_split, group))
        look = {_counted(short[split], by_split[split]): each.line for split, each in looks(short).items()}
        drawn = {"ID test": by_split[TEST], **{short[split]: by_split[split] for split in short}}
        draw_densities(axis, {_counted(label, values): values for label, values in drawn.items()}, look)
        auroc = stored.record.auroc.get(name, {}).get(group)
        axis.set_title(display_name(name) + ("" if auroc is None else f", AUROC {auroc:.1f} %"))
        axis.set_xlabel(UNITS[name], fontsize=7)
        axis.tick_params(labelsize=7)
    for axis in axes[::across]:
        axis.set_ylabel("density")
    label = "csid" if group == CSID else f"{group}-OOD"
    legend_below(figure, axes[0], 4)
    suptitle(figure, stored, f"Scores of ID and {label} samples, larger = more ID")
    return figure


@in_style
def roc_figure(stored: Stored) -> Figure | None:
    """ROC curves of every score against all samples of the near and of the far sets, OOD positive."""
    groups = [g for g in (NEAR, FAR) if any(members(by_split, g) for by_split in stored.scores.values())]
    if not groups:
        return None
    figure = DrawnFigure(3.8 * len(groups) + 1.3, 3.6)
    axes = draw_grid(figure, len(groups), len(groups), sharey=True)
    for axis, group in zip(axes, groups):
        for name, by_split in stored.scores.items():
            ood = np.concatenate([by_split[split] for split in members(by_split, group)])
            style = {"color": SCORE_COLOURS[name], "linestyle": SCORE_DASHES[name], "label": display_name(name)}
            draw_roc(axis, by_split[TEST], ood, **style)
        draw_chance(axis)
        axis.set(title=f"{group}-OOD, n = {len(ood)}", xlabel=FPR_LABEL)
    axes[0].set_ylabel(TPR_LABEL)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    suptitle(figure, stored, f"ROC curves, ID test n = {len(by_split[TEST])}")
    return figure


@in_style
def detector_figure(
    results: Sequence[Result], scores: Mapping[str, Mapping[str, NDArray[np.floating]]]
) -> Figure | None:
    """Histogram of one detector's scores on ID, csid, near and far samples, and its ROC curve on each OOD set.

    ``results`` are its rows of standard OOD, ``scores`` its stored scores by seed and split: a row of panels for each
    seed that has them, None where none has.
    """
    seeds = [seed for seed in dict.fromkeys(result.seed for result in results) if seed in scores]
    if not seeds:
        return None
    figure = DrawnFigure(7.2, 1.55 * len(seeds) + 1.0)
    for seed, (left, right) in zip(seeds, figure.subplots(len(seeds), 2, squeeze=False)):
        by_split = scores[seed]
        groups = {group: splits for group in (CSID, NEAR, FAR) if (splits := members(by_split, group))}
        look = looks(split for splits in groups.values() for split in splits)
        drawn, styles = {_counted("ID test", by_split[TEST]): by_split[TEST]}, {}
        for group, splits in groups.items():
            pooled = np.concatenate([by_split[split] for split in splits])
            label = _counted(group if group == CSID else f"{group}-OOD", pooled)
            drawn[label], styles[label] = pooled, look[splits[0]].line
        draw_densities(left, drawn, styles)
        left.set_ylabel(f"{seed}, density" if seed else "density")
        if seed == seeds[0]:  # the same in every row
            legend_below(figure, left, 4, fontsize=6.5)
        aurocs = {f"{r.group}/{r.dataset}": r.auroc for r in results if r.seed == seed}
        for split, short in short_names((*groups.get(NEAR, ()), *groups.get(FAR, ()))).items():
            label = f"{short}, AUROC {aurocs[split]:.2f} %" if split in aurocs else short
            draw_roc(right, by_split[TEST], by_split[split], label=label, **look[split].line)
        draw_chance(right)
        right.set_ylabel(TPR_LABEL)
        right.legend(fontsize=6.5, loc="lower right")
        for axis in (left, right):
            axis.tick_params(labelsize=7)
    left.set_xlabel("score, larger = more ID")
    right.set_xlabel(FPR_LABEL)
    name = display_name(results[0].detector)
    figure.suptitle(f"{short_names([name])[name]}: scores and ROC curves\n{results[0].benchmark}")
    return figure


def check_scores(path: Path, row: Result, scores: Mapping[str, Any]) -> None:
    """Raise PluginError unless the stored scores of a row's data set, and of ID, are as many as it says."""
    of_set = {} if row.dataset in GROUP_ROWS.values() else {f"{row.group}/{row.dataset}": row.n_ood}
    for split, count in {TEST: row.n_id, **of_set}.items():
        if (stored := len(scores.get(split, ()))) != count:
            raise PluginError(
                f"results '{path}': '{row.detector}' has {stored} scores of '{split}' and a row about {count};"
                " evaluate again"
            )


def _counted(label: str, values: NDArray[Any]) -> str:
    return f"{label}, n = {len(values)}"


def members(by_split: Mapping[str, Any], group: str) -> list[str]:
    return [split for split in by_split if Split.parse(split).group == group]
