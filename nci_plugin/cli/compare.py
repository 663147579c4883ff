"""``nci-ood compare``: which detectors differ, and how sure that is."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nci_plugin.comparison.over_benchmarks import OverBenchmarks
    from nci_plugin.comparison.records import Choice, Comparison
    from nci_plugin.comparison.worst import GroupScore


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare",
        help="say which detectors differ by more than chance, with intervals",
        description="Compare detectors on the scores that 'nci-ood eval' stored, pair by pair on the same images: AUROC"
        " by DeLong's test with Holm's adjustment, other metrics by a stratified paired bootstrap with step-down max-T;"
        " over five benchmarks or more Friedman's test with Conover-Holm.",
    )
    add = parser.add_argument
    add("results", type=Path, nargs="+", metavar="RESULTS", help="directories that 'nci-ood eval' wrote to")
    add("--detectors", nargs="+", metavar="NAME", help="compare these alone (all that were scored for every seed)")
    add("--against", metavar="NAME", help="compare every other detector with this one (every pair)")
    add(
        "--metric",
        default="auroc",
        metavar="NAME",
        help="auroc (default), fpr95, fpr_at_id_tpr95, aupr_in, aupr_out, aurc, augrc, autc, csid_auroc or"
        " csid_rejection",
    )
    add("--setting", choices=("ood", "fsood"), default="ood", help="standard (default) or full spectrum")
    add("--these-networks", action="store_true", help="intervals about these seeds' networks alone (and over networks)")
    add("--ood-share", type=float, default=0.5, metavar="X", help="share of OOD inputs for aurc and augrc (0.5)")
    add("--replicates", type=int, default=1000, metavar="B", help="bootstrap replicates, at least 1000 (1000)")
    add("--seed", type=int, default=0, help="of the bootstrap's draws (0)")
    add("--worst-groups", action="store_true", help="also name the five worst classes of every detector")
    add("--json", type=Path, metavar="FILE", help="also write every number to this file")
    add("--figure", type=Path, metavar="DIR", help="also draw forest and critical-difference figures in this directory")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.comparison.compare import check, compare
    from nci_plugin.comparison.over_benchmarks import over_benchmarks
    from nci_plugin.comparison.samples import read_samples
    from nci_plugin.comparison.tables import comparison_text, over_benchmarks_text, worst_text
    from nci_plugin.comparison.worst import worst_groups

    choice = _choice(options)
    benchmarks = read_samples(options.results, options.detectors)
    for samples in benchmarks:
        check(samples, choice)
    comparisons = [compare(samples, choice) for samples in benchmarks]
    print("\n\n".join(map(comparison_text, comparisons)))
    for samples in benchmarks:
        if samples.left_out:
            print(f"\n{samples.benchmark}: not scored for every seed, left out: {', '.join(samples.left_out)}")
    tests = over_benchmarks(comparisons) if len(comparisons) > 1 else []
    if tests:
        print(f"\n{over_benchmarks_text(tests)}")
    worst = {}
    for samples in benchmarks if options.worst_groups else ():
        worst[samples.benchmark] = worst_groups(samples, choice.setting)
        for detector, groups in worst[samples.benchmark].items():
            print(f"\n{worst_text(samples.benchmark, detector, groups)}")
    _write(options, comparisons, tests, worst)
    return 0


def _choice(options: argparse.Namespace) -> Choice:
    """What is compared and how; raises PluginError on a value that cannot be, before any file is read."""
    from nci_plugin.checks import PluginError, check_known, check_number, check_writable
    from nci_plugin.comparison.bootstrap import LEAST_REPLICATES
    from nci_plugin.comparison.records import Choice, check_ood_share
    from nci_plugin.metrics.columns import METRIC_COLUMNS

    check_known("metric", options.metric, METRIC_COLUMNS)
    check_number("--replicates", options.replicates, least=LEAST_REPLICATES, whole=True)
    check_number("--seed", options.seed, least=0, whole=True)
    check_ood_share(options.ood_share)
    if options.json is not None:
        if options.json.suffix.lower() != ".json":  # not the rows of a run, say
            raise PluginError(f"--json: must be a file named .json, got '{options.json}'; name another")
        if options.json.is_dir():
            raise PluginError(f"--json: must be a file, got the directory '{options.json}'; name a file in it")
        check_writable(options.json.parent)
    if options.figure is not None:
        check_writable(options.figure)
    return Choice(
        options.metric,
        options.setting,
        options.against,
        options.replicates,
        options.seed,
        options.ood_share,
        options.these_networks,
    )


def _write(
    options: argparse.Namespace,
    comparisons: Sequence[Comparison],
    tests: Sequence[OverBenchmarks],
    worst: Mapping[str, Mapping[str, Sequence[GroupScore]]],
) -> None:
    """The JSON file and the figures that were asked for."""
    import json
    from dataclasses import asdict

    from nci_plugin import __version__
    from nci_plugin.comparison.figures import forest_figure, rank_figure, value_figure
    from nci_plugin.evaluation.results import file_name
    from nci_plugin.files import write_atomically
    from nci_plugin.report.figures import save

    if options.json is not None:
        record = {
            "nci_plugin": __version__,
            "comparisons": [each.record() for each in comparisons],
            "over_benchmarks": [each.record() for each in tests],
            "worst_groups": {
                benchmark: {detector: [asdict(group) for group in groups] for detector, groups in by_detector.items()}
                for benchmark, by_detector in worst.items()
            },
        }
        write_atomically(options.json, json.dumps(record, indent=1, allow_nan=False) + "\n")
        print(f"written to {options.json}")
    if options.figure is None:
        return
    figures = {}
    for each in comparisons:
        before = f"{file_name(each.benchmark)}_" if len(comparisons) > 1 else ""
        figures[f"{before}forest.png"] = forest_figure(each)
        if each.ties:
            figures[f"{before}critical_difference.png"] = value_figure(each)
    tested = [test for test in tests if not test.reason]
    if tested:
        figures["ranks.png"] = rank_figure(tested)
    for name, figure in figures.items():
        save(figure, options.figure / name)
    print(f"written to {options.figure}: {', '.join(figures)}")
