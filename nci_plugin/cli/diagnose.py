"""``nci-ood diagnose``: what has collapsed in each network, and what that says of ID and OOD samples."""

from __future__ import annotations

from pathlib import Path

from nci_plugin import api
from nci_plugin.benchmarks.benchmark import TRAIN
from nci_plugin.checks import PluginError
from nci_plugin.cli.commands import Diagnose
from nci_plugin.cli.network import Job, Networks
from nci_plugin.diagnosis import DETECTORS
from nci_plugin.diagnosis.explanation import explain
from nci_plugin.diagnosis.network import diagnose_network
from nci_plugin.evaluation.directory import ResultsDirectory
from nci_plugin.evaluation.evaluate import evaluate_bank
from nci_plugin.evaluation.results import Result, complete
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.files import locked
from nci_plugin.report import diagnosis_figures
from nci_plugin.report import diagnosis_files as files
from nci_plugin.report import diagnosis_tables as tables
from nci_plugin.report.class_figures import FEW_CLASSES
from nci_plugin.report.figures import draw_run
from nci_plugin.report.tables import texts
from nci_plugin.report.terminal import say


def run(options: Diagnose) -> int:
    stored = Path(options.benchmark)
    if files.has_diagnosis(stored):
        if options != Diagnose(options.benchmark):
            raise PluginError(
                f"results '{stored}': hold a diagnosis, which is printed and drawn again without any option; leave them"
                " out, or name the benchmark to measure anew"
            )
        _report(stored)
        return 0
    job = Job.of(options.benchmark, options.network, options.data, options.passing)
    print(f"device: {job.device_name}")
    networks = job.load(job.find_one(options.benchmark))
    with locked(networks.output):
        _diagnose(networks, options.layers, options.second_pass)
        _report(networks.output)
    return 0


def _diagnose(networks: Networks, layers: bool, second_pass: bool) -> None:
    inputs, benchmark = networks.inputs, networks.inputs.benchmark
    setups = api.resolve_detectors(DETECTORS)
    benchmark.check_has(TRAIN, "collapse is measured on it")
    directory = ResultsDirectory(networks.output)
    networks.print_inputs()
    results: list[Result] = []
    failures: set[str] = set()
    records = []
    for seed, network in networks.by_seed.items():
        options = networks.extraction_options(seed, directory)
        bank = extract(network, benchmark, {FitsOn.STATISTICS}, options, inputs.splits, layers)
        directory.begin(bank, seed)
        evaluation = evaluate_bank(bank, benchmark, setups, seed, networks.provenance(seed))
        directory.add(evaluation, seed)
        results += evaluation.results
        failures |= set(evaluation.failures)
        diagnosis = diagnose_network(bank, benchmark, evaluation, seed, second_pass, layers)
        files.write_diagnosis(directory.path, seed, diagnosis)
        records.append(diagnosis.record)
    scored = [result for result in complete(results) if result.detector not in failures]
    directory.write_tables(scored)
    draw_run(directory, scored, failures)
    files.write_explanation(directory.path, explain(records))


def _report(results: Path) -> None:
    """Print and draw what lies in a results directory."""
    with files.drawn_from(results):
        stored = files.read_diagnoses(results)
        by_class = [tables.class_table(each.name, each.record) for each in stored]
        few = [table for table in by_class if len(table.rows) <= FEW_CLASSES]
        shown = [*tables.all_tables([each.name for each in stored], [each.record for each in stored]), *few]
        for text in texts(shown):
            print(f"\n{text}")
        print(f"\n{tables.explanation_text(files.read_explanation(results))}")
        figures = diagnosis_figures.draw(results)
        names = dict.fromkeys(name.rpartition("/")[2] for name in figures)
        say(f"\nwritten to {results / files.FOLDER}: *.json, *.npz, and as PNG and SVG: {', '.join(names)}")
