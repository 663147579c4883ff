"""``nci-ood eval``: score detectors on a benchmark, for one network or for the seeds s0, s1, s2, ..."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nci_plugin.cli import network

if TYPE_CHECKING:
    import torch

    from nci_plugin.benchmarks.benchmark import Benchmark
    from nci_plugin.evaluation.evaluate import Contestant
    from nci_plugin.evaluation.results import Result
    from nci_plugin.inputs import Inputs, Roots
    from nci_plugin.report.files import ResultsDirectory


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "eval",
        help="evaluate detectors on a benchmark",
        description="Pass every image of a benchmark through a network once, then score every detector.",
    )
    parser.add_argument(
        "benchmark",
        nargs="?",
        metavar="BENCHMARK",
        help="a name (see 'nci-ood list'), a YAML file, or 'all': every one of OpenOOD's that is there"
        " (all, else digits)",
    )
    parser.add_argument("--detectors", nargs="+", default=["all"], metavar="NAME", help="names or YAML files (all)")
    network.add_options(parser)
    parser.add_argument(
        "--amp", metavar="NAME", help="pass the images in bf16 or fp16 (torch.autocast), and say what that moves (none)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="columns of the printed tables, of the metrics of 'nci-ood compare' (fpr95 auroc aupr_in aupr_out)",
    )
    parser.add_argument("--intervals", action="store_true", help="print every mean with its 95 %% interval (none)")
    parser.add_argument(
        "--ood-share", type=float, default=0.5, metavar="X", help="share of OOD inputs for aurc and augrc (0.5)"
    )
    parser.add_argument("--fsood", action="store_true", help="tables and CSV of the full spectrum only (both)")
    parser.add_argument("--save-csv", action="store_true", help="CSV files, which are always written")
    parser.add_argument("--save-score", action="store_true", help="scores for OpenOOD too, as s*/scores/<detector>.pkl")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.features.processes import joined

    with joined() as options.processes:
        if options.processes.is_first:
            return _run(options)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return _run(options)


def _run(options: argparse.Namespace) -> int:
    from nci_plugin import api
    from nci_plugin.checks import PluginError
    from nci_plugin.cli.eval_all import ALL, evaluate_all

    device = network.resolve(options)
    _check_columns(options)
    setups = api.resolve_detectors(options.detectors)

    def find(name: str, roots: Roots) -> Inputs:
        return network.find(name, roots, options, device)

    def evaluate(inputs: Inputs) -> int:
        return _evaluate(inputs, options, setups, device)

    print(f"device: {network.device_name(device)}")
    processes = options.processes
    if options.benchmark in (None, ALL):
        if processes.size > 1:
            raise PluginError(f"benchmark '{ALL}': {processes.size} processes share one benchmark at a time; name one")
        return evaluate_all(options, find, evaluate)
    with processes.in_turn():  # the first may make or download what is missing
        inputs = network.find_one(options, device)
    return evaluate(inputs)


def _evaluate(inputs: Inputs, options: argparse.Namespace, setups: Sequence[Contestant], device: torch.device) -> int:
    from nci_plugin.report.files import ResultsDirectory

    inputs.benchmark.check_has_ood()
    _check_shifted(options.metrics or (), inputs.benchmark)
    networks = network.load(inputs, options, device)
    directory = ResultsDirectory(networks.output, options.save_score)
    with options.processes.locked(networks.output):
        return _score(networks, setups, directory)


def _score(networks: network.Networks, setups: Sequence[Contestant], directory: ResultsDirectory) -> int:
    from nci_plugin import api
    from nci_plugin.benchmarks.benchmark import CSID
    from nci_plugin.evaluation.results import complete

    inputs, options = networks.inputs, networks.options
    networks.print_inputs()
    if not inputs.benchmark.data_sets(CSID):
        print(f"full-spectrum OOD: no table, {inputs.no_full_spectrum}")

    results: list[Result] = []
    failures: dict[str, str] = {}
    for seed, each in networks.by_seed.items():
        evaluation = api.run_network(
            each,
            inputs.benchmark,
            setups,
            inputs.splits,
            networks.extraction_options(seed, directory),
            partial(networks.provenance, seed),
            directory,
            seed,
        )
        results += evaluation.results
        for detector, reason in evaluation.failures.items():
            failures.setdefault(detector, f"{seed}: {reason}" if seed else reason)
    if not options.processes.is_first:
        return 0
    results = [result for result in complete(results) if result.detector not in failures]
    shown = [result for result in results if result.setting == "fsood" or not options.fsood]
    written = directory.write_tables(shown, failures)
    _print_report(shown, failures, directory.path, written, options)
    return 1 if failures else 0


def _check_columns(options: argparse.Namespace) -> None:
    """Raise PluginError on columns that are no metrics, and on an OOD share that is none."""
    from nci_plugin.checks import check_known
    from nci_plugin.comparison.records import check_ood_share
    from nci_plugin.metrics import METRIC_COLUMNS

    check_ood_share(options.ood_share)
    for name in options.metrics or ():
        check_known("metric of --metrics", name, METRIC_COLUMNS)


def _check_shifted(names: Sequence[str], benchmark: Benchmark) -> None:
    """Raise PluginError if a metric needs covariate-shifted sets and the benchmark has none."""
    from nci_plugin.benchmarks.benchmark import CSID
    from nci_plugin.checks import PluginError
    from nci_plugin.metrics import METRIC_COLUMNS
    from nci_plugin.metrics.columns import OOD

    for name in names:
        if METRIC_COLUMNS[name].samples != OOD and not benchmark.data_sets(CSID):
            raise PluginError(
                f"--metrics {name}: benchmark '{benchmark.name}' has no covariate-shifted set; leave it out, or add one"
            )


def _print_report(
    results: list[Result], failures: Mapping[str, str], output: Path, written: list[str], options: argparse.Namespace
) -> None:
    from nci_plugin.evaluation.results import METRICS, SETTINGS
    from nci_plugin.report.tables import (
        alternatives_table,
        amp_table,
        choices_table,
        detectors_by_near_auroc,
        setting_table,
        setting_title,
    )

    for setting in SETTINGS:
        text = setting_table(results, setting)
        if text and (options.metrics or options.intervals):
            from nci_plugin.comparison.records import Choice
            from nci_plugin.comparison.samples import read_samples
            from nci_plugin.comparison.tables import metrics_text

            names = list(dict.fromkeys(options.metrics or (name for name in METRICS if name != "acc")))
            (samples,) = read_samples([output], detectors_by_near_auroc(results, setting))
            choice = Choice(setting=setting, ood_share=options.ood_share)
            cells = "mean [95 % interval]" if options.intervals else "mean ± std"
            columns = metrics_text(samples, names, choice, options.intervals)
            text = f"{setting_title(results, setting, cells)}\n{columns}" if columns else ""
        if text:
            print(f"\n{text}")
    if results:
        print(f"\n{choices_table(results)}")
    if table := alternatives_table(results):
        print(f"\n{table.text()}")
    if table := amp_table(results):
        print(f"\n{table.text()}")
    for detector, reason in failures.items():
        print(f"\nnot scored: {detector}: {reason}")
    print(f"\nwritten to {output}: {', '.join(written) or 'nothing'}")
