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

    from nci_plugin.evaluation.contestant import Contestant
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
    _print_report(shown, failures, directory.path, written)
    return 1 if failures else 0


def _print_report(results: list[Result], failures: Mapping[str, str], output: Path, written: list[str]) -> None:
    from nci_plugin.evaluation.results import SETTINGS
    from nci_plugin.report.tables import amp_table, choices_table, setting_table

    for setting in SETTINGS:
        text = setting_table(results, setting)
        if text:
            print(f"\n{text}")
    if results:
        print(f"\n{choices_table(results)}")
    if table := amp_table(results):
        print(f"\n{table.text()}")
    for detector, reason in failures.items():
        print(f"\nnot scored: {detector}: {reason}")
    print(f"\nwritten to {output}: {', '.join(written) or 'nothing'}")
