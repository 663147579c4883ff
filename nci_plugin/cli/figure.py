"""``nci-ood figure``: one figure of stored results, in the size and the format of a paper or a slide."""

from __future__ import annotations

from nci_plugin.checks import check_output_file
from nci_plugin.cli.commands import FIGURE_FORMATS, Figure
from nci_plugin.files import write_atomically
from nci_plugin.report.paper import figure
from nci_plugin.report.paper_figures import written
from nci_plugin.report.terminal import say


def run(options: Figure) -> int:
    forms = (options.format,) if options.format else FIGURE_FORMATS
    output = options.output or options.results / f"figure_{options.kind}.{forms[0]}"
    check_output_file("--output", output, [f".{form}" for form in forms])
    drawn = figure(options.kind, options.results, detectors=options.detectors, size=options.size, title=options.title)
    write_atomically(output, written(drawn, output.suffix[1:].lower()), durable=False)
    say(f"written to {output}: {drawn.caption}")
    return 0
