"""Scores of ID and OOD samples: histograms and ROC curves, from stored scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, TEST, Split
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.evaluation.results import Result
from nci_plugin.report.diagnosis_files import Stored
from nci_plugin.report.figures import DASHES, ID_COLOUR, PALETTE, Look, legend_below, looks, new_figure
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

BINS = 40


def suptitle(figure: Figure, stored: Stored, subject: str) -> None:
    """Name the subject, the benchmark, the network and its number of classes."""
    record = stored.record
    network = stored.name if record.seed else "one network"
    figure.suptitle(f"{subject}\n{record.benchmark}, {network}, K = {len(record.collapse.classes)}", fontsize=10)


def score_histograms(stored: Stored, group: str) -> Figure | None:
    """Histograms of every score on the ID test split and on the sets of ``csid``, ``near`` or ``far``."""
    known = {name: by_split for name, by_split in stored.scores.items() if members(by_split, group)}
    if not known:
        return None
    columns = 4
    figure = new_figure(10.4, 2.15 * -(-len(known) // columns) + 0.8)
    axes = figure.subplots(-(-len(known) // columns), columns, squeeze=False).ravel()
    for axis in axes[len(known) :]:
        axis.axis("off")
    for axis, (name, by_split) in zip(axes, known.items()):
        sets = members(by_split, group)
        _histogram(axis, by_split[TEST], {split: by_split[split] for split in sets}, looks(sets))
        auroc = stored.record.auroc.get(name, {}).get(group)
        axis.set_title(display_name(name) + ("" if auroc is None else f", AUROC {auroc:.1f} %"), fontsize=9)
        axis.set_xlabel(UNITS[name], fontsize=7)
        axis.tick_params(labelsize=7)
    for axis in axes[::columns]:
        axis.set_ylabel("density", fontsize=8)
    label = "csid" if group == CSID else f"{group}-OOD"
    legend_below(figure, axes[0], 4)
    suptitle(figure, stored, f"Scores of ID and {label} samples, larger = more ID")
    return figure


def roc_figure(stored: Stored) -> Figure | None:
    """ROC curves of every score against all samples of the near and of the far sets, OOD positive."""
    groups = [g for g in (NEAR, FAR) if any(members(by_split, g) for by_split in stored.scores.values())]
    if not groups:
        return None
    figure = new_figure(3.8 * len(groups) + 1.3, 3.6)
    axes = figure.subplots(1, len(groups), squeeze=False, sharey=True)[0]
    for axis, group in zip(axes, groups):
        for name, by_split in stored.scores.items():
            ood = np.concatenate([by_split[split] for split in members(by_split, group)])
            style = {"color": SCORE_COLOURS[name], "linestyle": SCORE_DASHES[name], "label": display_name(name)}
            _roc(axis, by_split[TEST], ood, **style)
        axis.set_title(f"{group}-OOD, n = {len(ood)}", fontsize=9)
        axis.set_xlabel("ID samples called OOD (%)")
    axes[0].set_ylabel("OOD samples found (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    suptitle(figure, stored, f"ROC curves, ID test n = {len(by_split[TEST])}")
    return figure


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
    figure = new_figure(7.2, 1.55 * len(seeds) + 1.0)
    for seed, (left, right) in zip(seeds, figure.subplots(len(seeds), 2, squeeze=False)):
        by_split = scores[seed]
        groups = {group: members(by_split, group) for group in (CSID, NEAR, FAR)}
        look = looks(split for splits in groups.values() for split in splits)
        pooled = {
            group if group == CSID else f"{group}-OOD": np.concatenate([by_split[split] for split in splits])
            for group, splits in groups.items()
            if splits
        }
        first = {name: look[splits[0]] for name, splits in zip(pooled, filter(None, groups.values()))}
        _histogram(left, by_split[TEST], pooled, first)
        left.set_ylabel(f"{seed}, density" if seed else "density", fontsize=8)
        if seed == seeds[0]:  # the same in every row
            legend_below(figure, left, 4, fontsize=6.5)
        aurocs = {f"{r.group}/{r.dataset}": r.auroc for r in results if r.seed == seed}
        for group in (NEAR, FAR):
            for split in groups[group]:
                label = f"{split}, AUROC {aurocs[split]:.2f} %" if split in aurocs else split
                style = {"color": look[split].colour, "linestyle": look[split].dashes, "label": label}
                _roc(right, by_split[TEST], by_split[split], **style)
        right.set_ylabel("OOD samples found (%)", fontsize=8)
        right.legend(fontsize=6.5, loc="lower right")
        for axis in (left, right):
            axis.tick_params(labelsize=7)
    left.set_xlabel("score, larger = more ID", fontsize=8)
    right.set_xlabel("ID samples called OOD (%)", fontsize=8)
    name = display_name(results[0].detector)
    figure.suptitle(f"{name}: scores and ROC curves\n{results[0].benchmark}", fontsize=10)
    return figure


def _histogram(
    axis: Axes, id_scores: NDArray[Any], others: Mapping[str, NDArray[Any]], look: Mapping[str, Look]
) -> None:
    """Densities over the range of all but the outermost 0.4 % of the scores."""
    low, high = np.quantile(np.concatenate([id_scores, *others.values()]).astype(np.float64), [0.002, 0.998])
    bins = np.linspace(low, high if high > low else low + 1, BINS + 1).tolist()
    axis.hist(id_scores, bins, density=True, color=ID_COLOUR, alpha=0.55, label=f"ID test, n = {len(id_scores)}")
    for name, scores in others.items():
        style: dict[str, Any] = {"color": look[name].colour, "linestyle": look[name].dashes, "linewidth": 1.4}
        axis.hist(scores, bins, density=True, histtype="step", label=f"{name}, n = {len(scores)}", **style)
    axis.set_yticks([])


def _roc(axis: Axes, id_scores: NDArray[Any], ood: NDArray[Any], **style: Any) -> None:
    """OOD samples are positive; a score is larger for ID."""
    from sklearn.metrics import roc_curve  # 1 s

    is_ood = np.arange(len(id_scores) + len(ood)) >= len(id_scores)
    fpr, tpr, _ = roc_curve(is_ood, -np.concatenate([id_scores, ood]))
    axis.plot(100 * fpr, 100 * tpr, linewidth=1.3, clip_on=False, **style)
    if not axis.lines[1:]:
        axis.plot([0, 100], [0, 100], color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlim=(0, 100), ylim=(0, 100))


def members(by_split: Mapping[str, Any], group: str) -> list[str]:
    return [split for split in by_split if Split.parse(split).group == group]
