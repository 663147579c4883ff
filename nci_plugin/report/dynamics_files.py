"""Where an analysis of trainings lies: ``dynamics.json``, figures over all runs, and those of each in ``<run>/``."""

from __future__ import annotations

import json
from pathlib import Path

from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.files import write_atomically
from nci_plugin.report.dynamics_figures import analysis_figures, of_runs
from nci_plugin.report.figures import SUFFIXES, save

ANALYSIS = "dynamics.json"


def write_analysis(analysis: Analysis, output: Path) -> None:
    text = json.dumps(analysis.to_dict(), indent=1, allow_nan=False)
    write_atomically(output / ANALYSIS, text + "\n", durable=False)  # written again by the same command


def draw(analysis: Analysis, output: Path) -> list[str]:
    """Write every figure, as PNG and SVG; returns their paths below ``output``, without suffix."""
    drawn = []
    figures = [(f"{run.run}/{name}", figure) for run, name, figure in of_runs(analysis)]
    for path, figure in [*figures, *analysis_figures(analysis)]:
        for suffix in SUFFIXES:
            save(figure, output / f"{path}{suffix}")
        drawn.append(path)
    return drawn
