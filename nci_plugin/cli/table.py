"""``nci-ood table``: the tables of a results directory, for a terminal, a README or a paper."""

from __future__ import annotations

import sys

from nci_plugin.checks import PluginError
from nci_plugin.cli.commands import Table
from nci_plugin.comparison.compare import standings
from nci_plugin.evaluation.results import SETTINGS
from nci_plugin.evaluation.run import Run
from nci_plugin.report import diagnosis_files as files
from nci_plugin.report.paper_tables import paper_table, written
from nci_plugin.report.tables import MAIN_METRICS, TABLE_METRICS


def run(options: Table) -> int:
    if options.of != "results":
        return _of_diagnosis(options)
    results = Run.read(options.results).rows(options.detectors)
    there = [setting for setting in SETTINGS if any(result.setting == setting for result in results)]
    settings = [options.setting] if options.setting else there
    if not set(settings) <= set(there):
        raise PluginError(f"--setting {options.setting}: '{options.results}' has {', '.join(there)}")
    known = standings(options.results, list(dict.fromkeys(result.detector for result in results)), settings)
    metrics = TABLE_METRICS if options.wide else MAIN_METRICS
    tables = [
        paper_table(results, setting, known.ranks.get(setting, {}), options.format, metrics, options.data_sets)
        for setting in settings
    ]
    print("\n\n".join(tables))
    if known.note:
        print(known.note, file=sys.stderr)
    return 0


def _of_diagnosis(options: Table) -> int:
    from nci_plugin.report.diagnosis_tables import tables_by_name  # imports torch

    if options != Table(options.results, options.format, options.of):
        raise PluginError(
            f"--of {options.of}: --detectors, --setting, --wide and --data-sets are about results; leave them out"
        )
    with files.drawn_from(options.results):
        stored = files.read_diagnoses(options.results)
        tables = tables_by_name([each.name for each in stored], [each.record for each in stored])[options.of]
    if not tables:
        raise PluginError(f"--of {options.of}: was not measured; run nci-ood diagnose with --layers")
    print("\n\n".join(written(table, options.format) for table in tables))
    return 0
