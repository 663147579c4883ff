"""``nci-ood figure``: one figure of stored results, in the size and the format of a paper or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nci_plugin.benchmarks.benchmark import TEST
from nci_plugin.checks import PluginError
from nci_plugin.cli.commands import Figure
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.results import Result, complete
from nci_plugin.files import write_atomically
from nci_plugin.report.paper_figures import MOST, Scores, auroc_figure, roc_figure, score_figure, style, written
from nci_plugin.report.selection import selected
from nci_plugin.report.tables import detectors_by_near_auroc
from nci_plugin.report.terminal import say

BEST = {"roc": 6, "scores": 3}
"""Detectors of curves and of histograms where none are named."""


def run(options: Figure) -> int:
    whole = complete(ResultsDirectory(options.results).read_one_benchmark())
    results = [result for result in selected(whole, options.detectors) if result.setting == "ood"]
    if not results:
        raise PluginError(f"results '{options.results}': have no rows of standard OOD; evaluate without --fsood")
    output = options.output or options.results / f"figure_{options.kind}.{options.format}"
    ordered = detectors_by_near_auroc(results, "ood")
    with style(options.size):
        if options.kind == "auroc":
            figure = auroc_figure(results, options.size)
        else:
            names = list(dict.fromkeys(options.detectors)) if options.detectors else ordered[: BEST[options.kind]]
            if len(names) > MOST:
                raise PluginError(f"--detectors: {options.kind} can tell {MOST} apart, got {len(names)}; name fewer")
            draw = roc_figure if options.kind == "roc" else score_figure
            figure = draw(names, _scores(options.results, results, names), options.size)
        if options.title:
            figure.suptitle(options.title)
        write_atomically(output, written(figure, options.format, options.size), durable=False)
    say(f"written to {output}: {results[0].benchmark}, standard OOD; {_drawn(options.kind, results)}")
    return 0


def _drawn(kind: str, results: Sequence[Result]) -> str:
    """What a caption has to say."""
    seeds = [seed for seed in dict.fromkeys(result.seed for result in results) if seed]
    if kind == "scores":
        return f"scores of the network {seeds[0]}" if seeds else "one network"
    over = f"over {', '.join(seeds)}" if len(seeds) > 1 else "of one network"
    return f"mean ± std {over}" if kind == "auroc" and len(seeds) > 1 else f"mean {over}" if seeds else "one network"


def _scores(path: Path, results: Sequence[Result], names: Sequence[str]) -> Scores:
    """Stored scores of every network; raises PluginError where some are missing, or others than the rows are about."""
    directory = ResultsDirectory(path)
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results:
        if row.detector not in names or row.dataset in ("nearood", "farood"):
            continue
        by_seed = scores.setdefault(row.detector, {})
        if row.seed not in by_seed:
            found = directory.scores(row.detector, row.seed)
            if found is None:
                raise PluginError(f"results '{path}': have no scores of '{row.detector}' {row.seed}; evaluate it again")
            by_seed[row.seed] = found
        for split, count in ((TEST, row.n_id), (f"{row.group}/{row.dataset}", row.n_ood)):
            if len(by_seed[row.seed].get(split, ())) != count:
                raise PluginError(
                    f"results '{path}': the scores of '{row.detector}' on '{split}' are not the {count} of its row;"
                    " evaluate again"
                )
    return scores
