"""Panels of lines along the stages of a network or the epochs of its training: one network, or the mean of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nci_plugin.benchmarks.benchmark import FAR, NEAR
from nci_plugin.collapse.registry import EPOCHS, STAGES, columns
from nci_plugin.diagnosis.record import StageRecord
from nci_plugin.dynamics.trajectory import GROUPS, Trajectory
from nci_plugin.report.dynamics_tables import ORTHO_DEV, symbol
from nci_plugin.report.figures import DASHES, DOTTED, PALETTE, written_as

MARKS = ("o", "D", "s", "^", "v", "P", "X", "*")
LOGARITHMIC = ("NC1", "training loss")
"""Panels along epochs that are on a logarithmic scale."""

BESIDES = {
    "NC5 OrthoDev": ORTHO_DEV,
    "training loss": {"train_loss": "loss"},
    "accuracy (%)": {"train_accuracy": "train", "test_accuracy": "test"},
}
"""Panel along epochs -> its series that are no collapse metrics, and their labels."""

LEGEND: dict[str, Any] = {"handlelength": 1.5, "labelspacing": 0.2, "borderpad": 0.2, "framealpha": 0.7}


@dataclass(frozen=True)
class Panel:
    """``lines`` are arrays (networks, places) by label; ``percent`` ones end at 100, the others begin at 0."""

    title: str
    lines: Mapping[str, NDArray[np.float64]]
    percent: bool = False
    logarithmic: bool = False
    is_auroc: bool = False


def stage_panels(networks: Sequence[Sequence[StageRecord]], detectors: Sequence[str] | None = None) -> list[Panel]:
    """Collapse, accuracy and AUROC after every stage of some networks that have the same."""

    def line(field: str, factor: float = 1) -> NDArray[np.float64]:
        values = [[stage.values.get(field) for stage in stages] for stages in networks]
        return factor * np.array(values, dtype=np.float64)  # None becomes NaN

    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, metric in columns(STAGES).items():
        panels.setdefault(metric.aspect, {})[metric.symbol] = line(name)
    drawn = [Panel(title, lines) for title, lines in panels.items()]
    drawn.append(Panel("cosine within class", {"mean cosine": line("within_cosine")}))
    drawn.append(Panel("NCC accuracy (%)", {"accuracy": line("nearest_centre_accuracy", 100)}, percent=True))
    scores = [by_score for stages in networks for stage in stages for by_score in stage.auroc.values()]
    known = written_as(name for by_score in scores for name in by_score)
    for group in networks[0][0].auroc:
        lines = {
            label: np.array([[stage.auroc[group].get(name, np.nan) for stage in stages] for stages in networks])
            for name, label in known.items()
            if detectors is None or name in detectors
        }
        drawn.append(_auroc_panel(group, lines))
    return _known(drawn)


def epoch_panels(runs: Sequence[Trajectory], detectors: Sequence[str] | None = None) -> list[Panel]:
    """Collapse, loss, accuracy and AUROC at the epochs that all runs have, `shared_epochs`."""
    epochs = shared_epochs(runs)
    rows = [np.isin(run.epochs, epochs) for run in runs]

    def line(name: str) -> NDArray[np.float64]:
        return np.array([run.series(name)[row] for run, row in zip(runs, rows)])

    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, metric in columns(EPOCHS).items():
        if all(run.logs(name) for run in runs):
            panels.setdefault(metric.aspect, {})[symbol(name)] = line(name)
    for title, names in BESIDES.items():
        panels[title] = {label: line(name) for name, label in names.items() if all(run.logs(name) for run in runs)}
    drawn = [Panel(title, lines, "%" in title, title in LOGARITHMIC) for title, lines in panels.items()]
    known = written_as(name for run in runs for record in run.records for name in record.auroc)
    for group in GROUPS:
        lines = {
            label: np.array([run.auroc(name, group)[row] for run, row in zip(runs, rows)])
            for name, label in known.items()
            if detectors is None or name in detectors
        }
        drawn.append(_auroc_panel(group, lines))
    return _known(drawn)


def shared_epochs(runs: Sequence[Trajectory]) -> list[int]:
    """The epochs that every run has a record of."""
    return sorted(set.intersection(*(set(run.epochs.tolist()) for run in runs)))


def group_title(group: str) -> str:
    """``near-OOD``, or ``near, full spectrum``."""
    return f"{group.partition(' ')[2]}, full spectrum" if group.startswith("fsood ") else f"{group}-OOD"


def _auroc_panel(group: str, lines: Mapping[str, NDArray[np.float64]]) -> Panel:
    title = f"{group} AUROC (%)" if group in (NEAR, FAR) else f"{group.partition(' ')[2]}, full sp. (%)"
    return Panel(title, lines, percent=True, is_auroc=True)


def draw_panels(
    figure: Figure, panels: Sequence[Panel], places: Sequence[float], across: int, marker_size: float = 3.5
) -> tuple[list[Axes], list[Axes]]:
    """Draw panels in rows; returns their axes, and those of the last row.

    Cells that are over are at the end of the first row, so that the last row is whole; the detectors, who are the same
    in every panel of AUROC, have their one legend there, or below where none is over.
    """
    across = min(across, len(panels))
    cells = figure.subplots(-(-len(panels) // across), across, squeeze=False)
    over = cells.size - len(panels)
    *axes, detectors = *cells[0, : across - over], *cells[1:].ravel(), None
    for axis in cells[0, across - over :]:
        axis.axis("off")
    for axis, panel in zip(axes, panels):
        draw_panel(axis, places, panel, marker_size)
        if len(panel.lines) > 1 and not panel.is_auroc:
            axis.legend(**LEGEND, loc="lower right" if panel.percent else "upper right")
        detectors = axis if panel.is_auroc else detectors
    if detectors is not None:
        handles, labels = detectors.get_legend_handles_labels()
        style: dict[str, Any] = {"title": "AUROC (%) of", "frameon": False}
        if over:
            cells[0, across - over].legend(handles, labels, loc="center", **style)
        else:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), across + 1), **style)
    return axes, list(cells[-1])


def draw_panel(axis: Axes, places: Sequence[float], panel: Panel, marker_size: float = 3.5) -> None:
    """The mean over networks of every line of a panel, with a band of one std where there are several."""
    step, top = max(1, len(places) // 8), 0.0
    styles = zip(cycle(PALETTE), cycle(DASHES), cycle(MARKS))
    for (label, values), (colour, dashes, mark) in zip(panel.lines.items(), styles):
        if not np.isfinite(values).any():
            continue
        mean, std = values.mean(axis=0), values.std(axis=0)
        axis.plot(
            places, mean, color=colour, linestyle=dashes, marker=mark, markersize=marker_size, markevery=step,
            label=label,
        )  # fmt: skip
        if len(values) > 1:
            axis.fill_between(places, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
        top = max(top, float(np.nanmax(values)))
    axis.set_title(panel.title)
    if panel.logarithmic:
        axis.set_yscale("log", nonpositive="mask")
        low, high = axis.get_ylim()
        axis.set_ylim(low, high * (high / low) ** (0.2 * len(panel.lines)) if len(panel.lines) > 1 else high)
    elif panel.percent:
        if panel.is_auroc:
            axis.axhline(50, **DOTTED)
        axis.set_ylim(max(0.0, axis.get_ylim()[0]), 101)
    elif not any((values < 0).any() for values in panel.lines.values()):
        room = 1.05 if len(panel.lines) == 1 else 1 + 0.25 * len(panel.lines)  # for the legend
        axis.set_ylim(0, room * top or 1)
    axis.grid()


def label_stages(axes: Sequence[Axes], last: Sequence[Axes], stages: Sequence[StageRecord]) -> None:
    """Name the stages below the panels of the last row."""
    names = [stage.stage.rpartition(".")[2] for stage in stages]
    for axis in axes:
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right", parse_math=False)
        axis.tick_params(labelbottom=axis in last)


def _known(panels: Sequence[Panel]) -> list[Panel]:
    """The panels that have a number."""
    return [panel for panel in panels if any(np.isfinite(values).any() for values in panel.lines.values())]
