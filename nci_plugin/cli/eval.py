"""``nci-ood eval``: score detectors on a benchmark, for one network or for the seeds s0, s1, s2, ..."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from nci_plugin import api
from nci_plugin.adapters.openood.scores import write_scores
from nci_plugin.benchmarks.benchmark import CSID, Benchmark
from nci_plugin.checks import PluginError, check_known
from nci_plugin.cli.commands import Eval
from nci_plugin.cli.eval_all import OTHERWISE, find_all
from nci_plugin.cli.network import ALL, Job, Networks
from nci_plugin.comparison.records import Choice, check_ood_share
from nci_plugin.comparison.samples import read_samples
from nci_plugin.comparison.tables import metrics_text
from nci_plugin.evaluation.contestant import Contestant
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.finished import forget
from nci_plugin.evaluation.results import SETTINGS, Result, complete
from nci_plugin.features.processes import Processes, joined
from nci_plugin.inputs import Inputs
from nci_plugin.metrics import METRIC_COLUMNS
from nci_plugin.metrics.columns import OOD
from nci_plugin.report.figures import draw_run
from nci_plugin.report.names import display_names
from nci_plugin.report.tables import (
    MAIN_METRICS,
    TABLE_METRICS,
    alternatives_table,
    amp_table,
    choices_table,
    detectors_by_near_auroc,
    setting_table,
    setting_title,
)
from nci_plugin.report.terminal import folded, say


def run(options: Eval) -> int:
    with joined() as processes:
        if processes.is_first:
            return _run(options, processes)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            return _run(options, processes)


def _run(options: Eval, processes: Processes) -> int:
    job = Job.of(options.benchmark, options.network, options.data, options.passing, processes)
    check_ood_share(options.ood_share)
    for name in options.metrics:
        check_known("metric of --metrics", name, METRIC_COLUMNS)
    setups = api.resolve_detectors(options.detectors, options.without)
    print(f"device: {job.device_name}")
    if options.benchmark not in (None, ALL):
        with processes.in_turn():  # the first may make or download what is missing
            inputs = job.find_one(options.benchmark)
        return _evaluate(inputs, job, setups, options)
    if processes.size > 1:
        raise PluginError(f"benchmark '{ALL}': {processes.size} processes share one benchmark at a time; name one")
    found = find_all(job, named=options.benchmark == ALL)
    if list(found) == [OTHERWISE]:
        return _evaluate(found[OTHERWISE], job, setups, options)
    return max(_one_of_several(name, inputs, job, setups, options) for name, inputs in found.items())


def _one_of_several(name: str, inputs: Inputs, job: Job, setups: Sequence[Contestant], options: Eval) -> int:
    """As `_evaluate`; where this benchmark cannot be evaluated that is said, and the others go on."""
    print(f"\n== {name}")
    try:
        return _evaluate(inputs, job, setups, options)
    except PluginError as error:
        print(f"nci-ood: error: {name}: {error}", file=sys.stderr)
        return 2


def _evaluate(inputs: Inputs, job: Job, setups: Sequence[Contestant], options: Eval) -> int:
    inputs.benchmark.check_has_ood()
    _check_shifted(options.metrics, inputs.benchmark)
    networks = job.load(inputs)
    setups, left_out = api.affordable(setups, options.detectors, inputs.benchmark.num_classes, job.processes)
    for name, reason in left_out.items():
        say(f"left out of 'all': {name}: {reason}; name it to have it")
    with job.processes.locked(networks.output):
        return _score(networks, setups, options)


def _score(networks: Networks, setups: Sequence[Contestant], options: Eval) -> int:
    job, inputs, directory = networks.job, networks.inputs, ResultsDirectory(networks.output)
    networks.print_inputs()
    if not inputs.benchmark.data_sets(CSID):
        say(f"full-spectrum OOD: no table, {inputs.no_full_spectrum}")
    results: list[Result] = []
    failures: dict[str, str] = {}
    thin: dict[str, list[str]] = {}
    for seed in networks.by_seed:
        evaluation = networks.evaluate(seed, setups, directory)
        if options.save_score and job.processes.is_first:
            write_scores(directory, seed, evaluation.scores)
        if evaluation.thin:
            thin.setdefault(evaluation.thin, []).append(seed)
        results += evaluation.results
        for detector, reason in evaluation.failures.items():
            failures.setdefault(detector, f"{seed}: {reason}" if seed else reason)
    if not job.processes.is_first:
        return 0
    for text, seeds in thin.items():
        say(f"training statistics{f' of {named}' if (named := ', '.join(filter(None, seeds))) else ''}: {text}")
    results = [result for result in complete(results) if result.detector not in failures]
    shown = [result for result in results if result.setting == "fsood" or not job.data.fsood]
    directory.write_tables(shown)
    draw_run(directory, shown, failures)
    forget(directory.path, list(networks.by_seed))
    _print_report(shown, failures, directory, options)
    return 1 if failures else 0


def _check_shifted(names: Sequence[str], benchmark: Benchmark) -> None:
    """Raise PluginError if a metric needs covariate-shifted sets and the benchmark has none."""
    for name in names:
        if METRIC_COLUMNS[name].samples != OOD and not benchmark.data_sets(CSID):
            raise PluginError(
                f"--metrics {name}: benchmark '{benchmark.name}' has no covariate-shifted set; leave it out, or add one"
            )


def _setting_text(results: Sequence[Result], setting: str, output: Path, options: Eval) -> str:
    """The table of one setting, with the metrics, data sets and intervals that were asked for."""
    detectors = detectors_by_near_auroc(results, setting)
    display = display_names(detectors)
    names = list(dict.fromkeys(options.metrics or (TABLE_METRICS if options.wide else MAIN_METRICS)))
    if not detectors or not (options.metrics or options.intervals):
        return setting_table(results, setting, names, options.data_sets, display)
    (samples,) = read_samples([output], detectors)
    choice = Choice(setting=setting, ood_share=options.ood_share)
    columns = metrics_text(samples, names, choice, options.intervals, options.data_sets, display)
    cells = "mean [95 % interval]" if options.intervals else "mean ± std"
    return f"{folded(setting_title(results, setting, cells))}\n{columns}" if columns else ""


def _print_report(
    results: Sequence[Result], failures: Mapping[str, str], directory: ResultsDirectory, options: Eval
) -> None:
    for setting in SETTINGS:
        if text := _setting_text(results, setting, directory.path, options):
            print(f"\n{text}")
    if results:
        print(f"\n{choices_table(results)}")
    if table := alternatives_table(results):
        print(f"\n{table.text()}")
    if table := amp_table(results):
        print(f"\n{table.text()}")
    for detector, reason in failures.items():
        say(f"\nnot scored: {detector}: {reason}")
    say(f"\nwritten to {directory.path}: {', '.join(directory.written()) or 'nothing'}")
