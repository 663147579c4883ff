"""``nci-ood figure``: one figure of stored results, in the size and the format of a paper or a slide."""

from __future__ import annotations

from nci_plugin.cli.commands import Figure
from nci_plugin.files import write_atomically
from nci_plugin.report.paper import figure
from nci_plugin.report.paper_figures import written
from nci_plugin.report.terminal import say


def run(options: Figure) -> int:
    drawn = figure(options.kind, options.results, detectors=options.detectors, size=options.size, title=options.title)
    output = options.output or options.results / f"figure_{options.kind}.{options.format}"
    write_atomically(output, written(drawn, options.format), durable=False)
    say(f"written to {output}: {drawn.caption}")
    return 0
