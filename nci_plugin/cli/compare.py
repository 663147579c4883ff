"""``nci-ood compare``: which detectors differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from nci_plugin import __version__
from nci_plugin.checks import check_known, check_number, check_output_file, check_writable
from nci_plugin.cli.commands import Compare
from nci_plugin.comparison.bootstrap import LEAST_REPLICATES
from nci_plugin.comparison.compare import check, compare
from nci_plugin.comparison.figures import forest_figure, rank_figure, value_figure
from nci_plugin.comparison.over_benchmarks import OverBenchmarks, over_benchmarks
from nci_plugin.comparison.records import Choice, Comparison, check_ood_share
from nci_plugin.comparison.samples import read_samples
from nci_plugin.comparison.tables import comparison_text, over_benchmarks_text, worst_text
from nci_plugin.comparison.worst import GroupScore, worst_groups
from nci_plugin.evaluation.results import file_name
from nci_plugin.metrics.columns import METRIC_COLUMNS
from nci_plugin.parsing import write_json
from nci_plugin.report.figures import save
from nci_plugin.report.terminal import say

Worst = Mapping[str, Mapping[str, Sequence[GroupScore]]]
"""The worst classes by benchmark and detector."""


def run(options: Compare) -> int:
    choice = _choice(options)
    benchmarks = read_samples(options.results, options.detectors)
    for samples in benchmarks:
        check(samples, choice)
        if options.worst_groups:
            samples.check_classes()
    comparisons = [compare(samples, choice) for samples in benchmarks]
    print("\n\n".join(map(comparison_text, comparisons)))
    for samples in benchmarks:
        if samples.left_out:
            say(f"\n{samples.benchmark}: not scored for every seed, left out: {', '.join(samples.left_out)}")
    tests = over_benchmarks(comparisons) if len(comparisons) > 1 else []
    if tests:
        print(f"\n{over_benchmarks_text(tests)}")
    ranked = benchmarks if options.worst_groups else ()
    worst = {samples.benchmark: worst_groups(samples, choice.setting) for samples in ranked}
    for benchmark, by_detector in worst.items():
        for detector, groups in by_detector.items():
            print(f"\n{worst_text(benchmark, detector, groups)}")
    if options.json is not None:
        _write_numbers(options.json, comparisons, tests, worst)
    if options.figure is not None:
        _draw(options.figure, comparisons, tests)
    return 0


def _choice(options: Compare) -> Choice:
    """What is compared and how; raises PluginError on a value that cannot be, before any file is read."""
    check_known("metric", options.metric, METRIC_COLUMNS)
    check_number("--replicates", options.replicates, least=LEAST_REPLICATES, whole=True)
    check_number("--seed", options.seed, least=0, whole=True)
    check_ood_share(options.ood_share)
    if options.json is not None:
        check_output_file("--json", options.json, (".json",))
    if options.figure is not None:
        check_writable(options.figure)
    return Choice(**{each.name: getattr(options, each.name) for each in fields(Choice)})


def _write_numbers(
    path: Path, comparisons: Sequence[Comparison], tests: Sequence[OverBenchmarks], worst: Worst
) -> None:
    record = {
        "nci_plugin": __version__,
        "comparisons": [each.record() for each in comparisons],
        "over_benchmarks": [asdict(each) for each in tests],
        "worst_groups": {
            benchmark: {detector: [asdict(group) for group in groups] for detector, groups in by_detector.items()}
            for benchmark, by_detector in worst.items()
        },
    }
    write_json(path, record)
    print(f"written to {path}")


def _draw(directory: Path, comparisons: Sequence[Comparison], tests: Sequence[OverBenchmarks]) -> None:
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
        save(figure, directory / name)
    print(f"written to {directory}: {', '.join(figures)}")
