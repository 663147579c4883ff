"""``nci-ood eval``: score detectors on a benchmark, for one network or for the seeds s0, s1, s2, ..."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial

from nci_plugin import api
from nci_plugin.adapters.openood.scores import write_scores
from nci_plugin.benchmarks.benchmark import CSID
from nci_plugin.checks import PluginError
from nci_plugin.cli.commands import Eval
from nci_plugin.cli.eval_all import evaluate_all
from nci_plugin.cli.network import ALL, Job, Networks
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.evaluate import Contestant
from nci_plugin.evaluation.results import SETTINGS, Result, complete
from nci_plugin.features.processes import Processes, joined
from nci_plugin.inputs import Inputs
from nci_plugin.report.figures import draw_run
from nci_plugin.report.tables import amp_table, choices_table, setting_table


def run(options: Eval) -> int:
    with joined() as processes:
        if processes.is_first:
            return _run(options, processes)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return _run(options, processes)


def _run(options: Eval, processes: Processes) -> int:
    job = Job.of(options.benchmark, options.network, options.data, options.passing, processes)
    setups = api.resolve_detectors(options.detectors)
    print(f"device: {job.device_name}")

    def evaluate(inputs: Inputs) -> int:
        return _evaluate(inputs, job, setups, options.save_score)

    if options.benchmark in (None, ALL):
        if processes.size > 1:
            raise PluginError(f"benchmark '{ALL}': {processes.size} processes share one benchmark at a time; name one")
        return evaluate_all(job, named=options.benchmark == ALL, evaluate=evaluate)
    with processes.in_turn():  # the first may make or download what is missing
        inputs = job.find_one(options.benchmark)
    return evaluate(inputs)


def _evaluate(inputs: Inputs, job: Job, setups: Sequence[Contestant], save_score: bool) -> int:
    inputs.benchmark.check_has_ood()
    networks = job.load(inputs)
    with job.processes.locked(networks.output):
        return _score(networks, setups, save_score)


def _score(networks: Networks, setups: Sequence[Contestant], save_score: bool) -> int:
    job, inputs, directory = networks.job, networks.inputs, ResultsDirectory(networks.output)
    networks.print_inputs()
    if not inputs.benchmark.data_sets(CSID):
        print(f"full-spectrum OOD: no table, {inputs.no_full_spectrum}")
    results: list[Result] = []
    failures: dict[str, str] = {}
    for seed, network in networks.by_seed.items():
        passing = networks.extraction_options(seed, directory)
        provenance = partial(networks.provenance, seed)
        evaluation = api.run_network(
            network, inputs.benchmark, setups, inputs.splits, passing, provenance, directory, seed
        )
        if save_score and job.processes.is_first:
            write_scores(directory, seed, evaluation.scores)
        results += evaluation.results
        for detector, reason in evaluation.failures.items():
            failures.setdefault(detector, f"{seed}: {reason}" if seed else reason)
    if not job.processes.is_first:
        return 0
    results = [result for result in complete(results) if result.detector not in failures]
    shown = [result for result in results if result.setting == "fsood" or not job.data.fsood]
    directory.write_tables(shown)
    draw_run(directory, shown, failures)
    _print_report(shown, failures, directory)
    return 1 if failures else 0


def _print_report(results: list[Result], failures: Mapping[str, str], directory: ResultsDirectory) -> None:
    for setting in SETTINGS:
        if text := setting_table(results, setting):
            print(f"\n{text}")
    if results:
        print(f"\n{choices_table(results)}")
    if table := amp_table(results):
        print(f"\n{table.text()}")
    for detector, reason in failures.items():
        print(f"\nnot scored: {detector}: {reason}")
    print(f"\nwritten to {directory.path}: {', '.join(directory.written()) or 'nothing'}")
