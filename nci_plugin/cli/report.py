"""``nci-ood report``: one HTML page of a results directory."""

from __future__ import annotations

from nci_plugin.checks import check_output_file
from nci_plugin.cli.commands import Report
from nci_plugin.comparison.compare import standings
from nci_plugin.evaluation.results import file_name
from nci_plugin.evaluation.run import Run
from nci_plugin.files import write_atomically
from nci_plugin.report.figures import save_all
from nci_plugin.report.page import detector_figures, page


def run(options: Report) -> int:
    output = options.output or options.results / "report.html"
    run = Run.read(options.results)
    check_output_file("--output", output, (".html", ".htm"))
    if run.unrecorded:
        print(run.unrecorded)
    figures = detector_figures(options.results, run.results)
    known = standings(options.results, run.select(), run.settings)
    text = page(options.results, run.results, figures, known.ranks, known.note, known.intervals)
    write_atomically(output, text)
    print(f"written to {output}: {len(text.encode()) / 2**20:.1f} MiB")
    if options.figures:
        folder = options.results / "detectors"
        save_all(((file_name(detector), figure) for detector, figure in figures.items()), folder)
        print(f"written to {folder}: *.png, *.svg")
    return 0
