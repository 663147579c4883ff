"""Figures of collapse for papers, in the style of `paper_figures`: from stored diagnoses and trajectories alone.

Numbers are means over networks, with one standard deviation where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nci_plugin.checks import PluginError, check_known
from nci_plugin.diagnosis.explanation import over_networks
from nci_plugin.diagnosis.record import StageRecord
from nci_plugin.dynamics.conditions import cell
from nci_plugin.dynamics.trajectory import Trajectory, find_trajectories, read_trajectory
from nci_plugin.report.class_figures import FEW_CLASSES, labels, turned
from nci_plugin.report.diagnosis_files import Stored, drawn_from, read_diagnoses
from nci_plugin.report.dynamics_files import read_onsets
from nci_plugin.report.figures import PALETTE
from nci_plugin.report.panels import Panel, draw_panels, epoch_panels, label_stages, shared_epochs, stage_panels
from nci_plugin.report.paper_figures import FONTS, WIDTHS, PaperFigure

BINS = 30
ACROSS = {"column": 2, "page": 4, "slide": 4}
"""Panels beside each other."""

IDEAL: dict[str, Any] = {"color": PALETTE[1], "linewidth": 1, "linestyle": "--"}
MEAN: dict[str, Any] = {"color": "0.2", "linewidth": 0.8, "linestyle": ":"}


def collapse_figure(diagnoses: Sequence[Stored], size: str = "column") -> PaperFigure:
    """NC1 and NC3 class by class, and the cosines of all pairs of class means (NC2); dashed: at exact collapse.

    Many classes are histograms. Of a property that no network has there is no panel.
    """
    collapse = [each.record.collapse for each in diagnoses]
    first, few = collapse[0], len(collapse[0].classes) <= FEW_CLASSES
    names = labels(diagnoses[0].record, first.classes)
    pairs = [each.arrays["pair_cosines"] for each in diagnoses if "pair_cosines" in each.arrays]
    etf = -1 / (len(first.classes) - 1) if first.etf_exists and len(first.classes) > 1 else None
    panels: list[Callable[[Axes], None]] = []
    for values, numbers, title, label, ideal in (
        ([c.class_variances for c in collapse], [c.nc1_quotient for c in collapse], "NC1", "variance within", None),
        ([c.nc3_cosines for c in collapse], [c.nc3_cosine_mean for c in collapse], "NC3", "cosine with weight", 1.0),
    ):
        known = np.array([each for each in values if each is not None], dtype=np.float64)  # (networks, classes)
        if np.isfinite(known).any():
            shown = f"{title} = {over_networks(numbers, '.2g')}"
            by_class = names if few else None
            panels.append(partial(_classes, known=known, names=by_class, title=shown, label=label, ideal=ideal))
    if pairs:
        cosines = f"NC2: {sum(map(len, pairs))} pairs of means"
        panels.insert(1, lambda axis: _histogram(axis, np.concatenate(pairs), cosines, "cosine of two means", etf))
    if not panels:
        raise PluginError("figure 'collapse': no network has within-class variance or class means to draw")
    inch, across = FONTS[size] / 72, 1 if size == "column" else len(panels)
    height = 0.36 * WIDTHS[size] if size == "column" else 0.75 * WIDTHS[size] / len(panels)
    words = max(map(len, names)) if few and turned(names) else 0
    figure = PaperFigure(WIDTHS[size], -(-len(panels) // across) * (height + (2 + 0.5 * words) * inch))
    for axis, draw in zip(figure.subplots(len(panels) // across, across, squeeze=False).ravel(), panels):
        draw(axis)
        axis.spines[["top", "right"]].set_visible(False)
    shown = "; dotted: mean over classes; dashed: at exact collapse" if few else "; dotted: mean; dashed: at collapse"
    figure.caption = f"{_of(diagnoses)}, {first.num_samples} training samples{shown}"
    return figure


def layers_figure(
    diagnoses: Sequence[Stored], size: str = "column", detectors: Sequence[str] | None = None
) -> PaperFigure:
    """Collapse, accuracy of the nearest class mean and AUROC after every stage of the networks."""
    layers: list[Sequence[StageRecord]] = [each.record.layers for each in diagnoses if each.record.layers]
    if len(layers) < len(diagnoses):
        raise PluginError("figure 'layers': its stages were not measured; run nci-ood diagnose with --layers")
    known = {name for stages in layers for stage in stages for scores in stage.auroc.values() for name in scores}
    _check(detectors, known, "score of these stages")
    figure, axes, last = _panels(stage_panels(layers, detectors), range(len(layers[0])), size)
    label_stages(axes, last, layers[0])
    figure.caption = f"{_of(diagnoses)}, collapse on {diagnoses[0].record.collapse.num_samples} training samples"
    return figure


def dynamics_figure(
    runs: Sequence[Trajectory],
    onsets: Mapping[str, int],
    size: str = "column",
    detectors: Sequence[str] | None = None,
) -> PaperFigure:
    """Collapse, loss, accuracy and AUROC along training, at the epochs that all runs have.

    ``onsets`` are epochs by run, drawn as lines. Raises PluginError where runs differ in more than their seed.
    """
    if len({cell(run) for run in runs}) > 1:
        raise PluginError(
            f"figure 'dynamics': the {len(runs)} runs differ in more than their seed, so that their mean says nothing;"
            f" pass the directory of one, '{runs[0].run}' say"
        )
    _check(detectors, {name for run in runs for record in run.records for name in record.auroc}, "detector of this run")
    epochs = shared_epochs(runs)
    if not epochs:
        raise PluginError("figure 'dynamics': the runs have no epoch in common; pass the directory of one")
    figure, axes, last = _panels(epoch_panels(runs, detectors), epochs, size)
    for axis in axes:
        for run in runs:
            if run.run in onsets:
                axis.axvline(onsets[run.run], color="0.25", linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_xlabel("epoch" if axis in last else "")
        axis.tick_params(labelbottom=axis in last)
    mean = f"mean ± std over {len(runs)} runs" if len(runs) > 1 else runs[0].run
    lines = "; lines: onsets of collapse" if any(run.run in onsets for run in runs) else ""
    figure.caption = f"{mean}{lines}"
    return figure


def of_diagnoses(results: Path, draw: Callable[..., PaperFigure], **options: Any) -> PaperFigure:
    """A figure of the diagnoses in a results directory; raises PluginError where there are none."""
    with drawn_from(results):
        return draw(read_diagnoses(results), **options)


def of_trajectories(directory: Path, **options: Any) -> PaperFigure:
    """`dynamics_figure` of all trajectories at or below a directory, with the onsets that were found there."""
    files = find_trajectories(directory)
    if not files:
        raise PluginError(f"'{directory}': has no trajectory.jsonl at or below it; run nci-ood dynamics first")
    return dynamics_figure([read_trajectory(file) for file in files], read_onsets(directory), **options)


def _check(detectors: Sequence[str] | None, known: set[str], what: str) -> None:
    for name in detectors or ():
        check_known(what, name, sorted(known))


def _of(diagnoses: Sequence[Stored]) -> str:
    benchmark, names = diagnoses[0].record.benchmark, [each.name for each in diagnoses]
    return f"{benchmark}, {'mean ± std over ' + ', '.join(names) if len(names) > 1 else 'one network'}"


def _panels(panels: Sequence[Panel], places: Sequence[float], size: str) -> tuple[PaperFigure, list[Axes], list[Axes]]:
    across, inch = min(ACROSS[size], len(panels)), FONTS[size] / 72
    rows = -(-len(panels) // across)
    figure = PaperFigure(WIDTHS[size], rows * (0.75 * WIDTHS[size] / across + 2 * inch) + 5 * inch)
    axes, last = draw_panels(figure, panels, places, across, marker_size=0.3 * FONTS[size])
    return figure, axes, last


def _classes(axis: Axes, known: Any, names: Sequence[str] | None, title: str, label: str, ideal: float | None) -> None:
    """A bar a class, or the histogram of many; ``known`` (networks, classes)."""
    if names is None:
        _histogram(axis, known[np.isfinite(known)], title, label, ideal, "classes")
        return
    mean = known.mean(axis=0)
    axis.bar(range(len(names)), mean, color=PALETTE[0], yerr=known.std(axis=0) if len(known) > 1 else None)
    axis.axhline(float(np.nanmean(known)), **MEAN)
    if ideal is not None:
        axis.axhline(ideal, **IDEAL)
    axis.set_xticks(range(len(names)), names, rotation=turned(names), parse_math=False)
    axis.set(title=title, ylabel=label, xlabel="class")


def _histogram(axis: Axes, values: Any, title: str, label: str, ideal: float | None, counted: str = "pairs") -> None:
    axis.hist(
        values, min(BINS, max(5, int(2 * np.sqrt(len(values))))), color=PALETTE[0], edgecolor="white", linewidth=0.3
    )
    axis.axvline(float(np.mean(values)), **MEAN)
    if ideal is not None:
        axis.axvline(ideal, **IDEAL)
    axis.set(title=title, ylabel=counted, xlabel=label)
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
