"""``nci-ood report``: one HTML page of a results directory."""

from __future__ import annotations

from nci_plugin.checks import check_output_file
from nci_plugin.cli.commands import Report
from nci_plugin.comparison.compare import standings
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.identity import unrecorded
from nci_plugin.evaluation.results import complete, file_name
from nci_plugin.files import write_atomically
from nci_plugin.report.figures import SUFFIXES, save
from nci_plugin.report.page import detector_figures, page


def run(options: Report) -> int:
    output = options.output or options.results / "report.html"
    results = ResultsDirectory(options.results).read_one_benchmark()
    check_output_file("--output", output, (".html", ".htm"))
    if missing := unrecorded([result.provenance for result in results]):
        print(missing)
    figures = detector_figures(options.results, results)
    whole = complete(results)
    detectors = list(dict.fromkeys(result.detector for result in whole))
    known = standings(options.results, detectors, list(dict.fromkeys(result.setting for result in whole)))
    text = page(options.results, results, figures, known.ranks, known.note, known.intervals)
    write_atomically(output, text)
    print(f"written to {output}: {len(text.encode()) / 2**20:.1f} MiB")
    if options.figures:
        folder = options.results / "detectors"
        for detector, figure in figures.items():
            for suffix in SUFFIXES:
                save(figure, folder / f"{file_name(detector)}{suffix}")
        print(f"written to {folder}: *.png, *.svg")
    return 0
