"""``nci-ood drift``: are new scores what the validation images would lead one to expect?"""

from __future__ import annotations

from nci_plugin.checks import check_number, check_output_file
from nci_plugin.cli.commands import Drift
from nci_plugin.deploy.drift import drift, read_scores
from nci_plugin.deploy.file import read
from nci_plugin.report.figures import SUFFIXES, save


def run(options: Drift) -> int:
    if options.last is not None:
        check_number("--last", options.last, above=0, whole=True)
    if options.figure is not None:
        check_output_file("--figure", options.figure, SUFFIXES)
    fitted = read(options.detector)
    tpr = fitted.settings["tpr"] if options.tpr is None else options.tpr
    found = drift(fitted.calibration, read_scores(options.scores, options.last), tpr, options.confidence)
    print(found)
    if options.figure is not None:
        save(found.plot(), options.figure)
        print(f"written to {options.figure}")
    return 1 if found.drifted else 0
