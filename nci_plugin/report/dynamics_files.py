"""Where an analysis of trainings lies: ``dynamics.json``, figures over all runs, and those of each in ``<run>/``."""

from __future__ import annotations

from pathlib import Path

from nci_plugin.checks import PluginError
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.onset import ONSET
from nci_plugin.parsing import read_json, write_json
from nci_plugin.report.diagnosis_files import RECORD_BYTES
from nci_plugin.report.dynamics_figures import figures
from nci_plugin.report.figures import save_all

ANALYSIS = "dynamics.json"


def write_analysis(analysis: Analysis, output: Path) -> None:
    write_json(output / ANALYSIS, analysis.to_dict(), durable=False)  # written again by the same command


def read_onsets(directory: Path) -> dict[str, int]:
    """The epochs of the onsets that an analysis found, by run; empty where none lies in or above the directory."""
    paths = [path for place in (directory, directory.parent) if (path := place / ANALYSIS).is_file()]  # of one, or all
    if not paths:
        return {}
    again = "run nci-ood dynamics again"
    found = read_json(paths[0], "dynamics", again, RECORD_BYTES)
    try:
        onsets = [each for each in found["onsets"] if each["outcome"] == ONSET]
        return {str(each["run"]): int(each["epoch"]) for each in onsets}
    except (ValueError, LookupError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"dynamics '{paths[0]}': cannot be read ({reason}); {again}") from None


def draw(analysis: Analysis, output: Path) -> list[str]:
    """Write every figure, as PNG and SVG; returns their paths below ``output``, without suffix."""
    return save_all(figures(analysis), output)
