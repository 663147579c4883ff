"""``nci-ood diagnose``: what has collapsed in each network, and what that says of ID and OOD samples."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nci_plugin.cli import network

if TYPE_CHECKING:
    from nci_plugin.evaluation.results import Result


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "diagnose",
        help="measure neural collapse, and what it says of OOD samples",
        description="Measure neural collapse (NC1 to NC5) in the networks that 'eval' would evaluate, score one"
        " detector for each property, and draw the figures.",
    )
    parser.add_argument(
        "benchmark",
        metavar="BENCHMARK",
        help="a name (see 'nci-ood list') or a YAML file; or the results directory of an earlier diagnosis, which is"
        " printed and drawn again from its files",
    )
    parser.add_argument("--layers", action="store_true", help="also measure every stage of the network")
    parser.add_argument(
        "--second-pass",
        action="store_true",
        help="measure NC4 on the training set with a second pass over it, where its features are not stored",
    )
    network.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin.files import locked
    from nci_plugin.report.diagnosis_files import has_diagnosis

    if has_diagnosis(Path(options.benchmark)):
        _report(Path(options.benchmark))
        return 0
    device = network.resolve(options)
    print(f"device: {network.device_name(device)}")
    networks = network.load(network.find_one(options, device), options, device)
    with locked(networks.output):
        return _diagnose(networks)


def _diagnose(networks: network.Networks) -> int:
    from nci_plugin import api
    from nci_plugin.benchmarks.benchmark import TRAIN
    from nci_plugin.checks import PluginError
    from nci_plugin.diagnosis.explanation import explain
    from nci_plugin.diagnosis.network import DETECTORS, diagnose_network
    from nci_plugin.evaluation.evaluate import evaluate_bank
    from nci_plugin.evaluation.results import complete
    from nci_plugin.features.bank import FitsOn
    from nci_plugin.features.extract import extract
    from nci_plugin.report.diagnosis_files import write_diagnosis, write_explanation
    from nci_plugin.report.files import ResultsDirectory

    inputs, options, benchmark = networks.inputs, networks.options, networks.inputs.benchmark
    setups = api.resolve_detectors(DETECTORS)
    if TRAIN not in inputs.splits:
        raise PluginError(f"benchmark '{benchmark.name}': collapse is measured on 'id/train', which is missing")
    directory = ResultsDirectory(networks.output)
    networks.print_inputs()
    results: list[Result] = []
    failures: set[str] = set()
    records = []
    for seed, each in networks.by_seed.items():
        extraction_options = networks.extraction_options(seed, directory)
        bank = extract(each, benchmark, {FitsOn.STATISTICS}, extraction_options, inputs.splits, options.layers)
        directory.begin(bank, seed)
        evaluation = evaluate_bank(bank, benchmark, setups, seed, networks.provenance(seed))
        directory.add(evaluation, seed)
        results += evaluation.results
        failures |= set(evaluation.failures)
        diagnosis = diagnose_network(
            bank, benchmark, evaluation, seed, options.second_pass, options.head, options.layers
        )
        write_diagnosis(directory.path, seed, diagnosis)
        records.append(diagnosis.record)
    directory.write_tables([result for result in complete(results) if result.detector not in failures], failures)
    write_explanation(directory.path, explain(records))
    _report(directory.path)
    return 0


def _report(results: Path) -> None:
    """Print and draw what lies in a results directory."""
    from nci_plugin.report.diagnosis_files import drawn_from

    with drawn_from(results):
        _print_and_draw(results)


def _print_and_draw(results: Path) -> None:
    from nci_plugin.report import diagnosis_tables as tables
    from nci_plugin.report.class_figures import FEW_CLASSES
    from nci_plugin.report.diagnosis_figures import draw
    from nci_plugin.report.diagnosis_files import FOLDER, read_diagnoses, read_explanation

    stored = read_diagnoses(results)
    records = [each.record for each in stored]
    by_class = [tables.class_table(each.name, each.record) for each in stored]
    few = [table for table in by_class if len(table.rows) <= FEW_CLASSES]
    for table in [*tables.all_tables([each.name for each in stored], records), *few]:
        print(f"\n{table.text()}")
    print(f"\n{tables.explanation_text(read_explanation(results))}")
    figures = draw(results)
    print(f"\nwritten to {results / FOLDER}: *.json, *.npz, and as PNG and SVG:")
    print(", ".join(name.removeprefix(f"{FOLDER}/") for name in figures))
