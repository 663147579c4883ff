"""``nci-ood drift``: are new scores what the validation images would lead one to expect?"""

from __future__ import annotations

from nci_plugin.checks import PluginError, check_number, check_output_file
from nci_plugin.cli.service_commands import Drift
from nci_plugin.deploy.drift import drift, read_scores
from nci_plugin.deploy.file import read
from nci_plugin.deploy.score_log import run_path
from nci_plugin.files import digest
from nci_plugin.parsing import read_json
from nci_plugin.report.figures import SUFFIXES, save


def run(options: Drift) -> int:
    if options.last is not None:
        check_number("--last", options.last, above=0, whole=True)
    if options.figure is not None:
        check_output_file("--figure", options.figure, SUFFIXES)
    fitted = read(options.detector)
    _check_detector(options)
    tpr = fitted.level(options.tpr)
    found = drift(fitted.calibration, read_scores(options.scores, options.last), tpr, options.confidence)
    print(found)
    if options.figure is not None:
        save(found.plot(), options.figure)
        print(f"written to {options.figure}")
    return 1 if found.drifted else 0


def _check_detector(options: Drift) -> None:
    """Raise PluginError where what stands beside the scores says that another detector gave them."""
    try:
        run = read_json(run_path(options.scores), "run", "score again")
    except OSError:  # a log of one's own service
        return
    if not isinstance(run, dict) or run.get("detector") != digest(options.detector.read_bytes()):
        raise PluginError(
            f"scores '{options.scores}': were given by another detector file than '{options.detector}'; pass that one,"
            " or score with this one"
        )
