"""``nci-ood report``: one HTML page of a results directory."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="write the results, and a diagnosis beside them, as one HTML page",
        description="Write a page that needs nothing beside it: tables to sort, hyper-parameters, the diagnosis where"
        " one was made, the scores of every detector, and where the numbers come from.",
    )
    parser.add_argument("results", type=Path, metavar="RESULTS", help="a directory that 'nci-ood eval' wrote to")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (RESULTS/report.html)")
    parser.add_argument(
        "--figures", action="store_true", help="also write each detector's figure to RESULTS/detectors, as PNG and SVG"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.checks import PluginError, check_writable
    from nci_plugin.comparison.compare import standings
    from nci_plugin.evaluation.identity import unrecorded
    from nci_plugin.evaluation.results import complete, file_name
    from nci_plugin.files import write_atomically
    from nci_plugin.report.figures import SUFFIXES, save
    from nci_plugin.report.files import ResultsDirectory
    from nci_plugin.report.page import detector_figures, page

    output = options.output or options.results / "report.html"
    results = ResultsDirectory(options.results).read_one_benchmark()
    if output.suffix.lower() not in (".html", ".htm"):  # not the rows of a run, say
        raise PluginError(f"--output: must be a file named .html, got '{output}'; name another")
    if output.is_dir():
        raise PluginError(f"--output: must be a file, got the directory '{output}'; name a file in it")
    check_writable(output.parent)
    if missing := unrecorded([result.provenance for result in results]):
        print(missing)
    figures = detector_figures(options.results, results)
    whole = complete(results)
    detectors = list(dict.fromkeys(result.detector for result in whole))
    known = standings(options.results, detectors, list(dict.fromkeys(result.setting for result in whole)))
    text = page(options.results, results, figures, known.ranks, known.note)
    write_atomically(output, text)
    print(f"written to {output}: {len(text.encode()) / 2**20:.1f} MiB")
    if options.figures:
        folder = options.results / "detectors"
        for detector, figure in figures.items():
            for suffix in SUFFIXES:
                save(figure, folder / f"{file_name(detector)}{suffix}")
        print(f"written to {folder}: *.png, *.svg")
    return 0
