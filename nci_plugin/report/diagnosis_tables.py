"""The collapse report for a terminal and for the page, from stored diagnoses alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nci_plugin.collapse import Progress
from nci_plugin.collapse.registry import METRICS, STAGES, Metric, columns, of_training
from nci_plugin.diagnosis.explanation import Explanation
from nci_plugin.diagnosis.layers import mean_over_networks
from nci_plugin.diagnosis.record import SPREADS, DiagnosisRecord, progressive
from nci_plugin.networks.stages import POOLING
from nci_plugin.report.cells import UNKNOWN, number, percent
from nci_plugin.report.tables import Table
from nci_plugin.report.terminal import folded

Records = Sequence[DiagnosisRecord]

FRAME = {"span_share": "share in span", "vertex_angle": "angle", "etf_angle": "to ETF", "vertex_distance": "distance"}
"""What `distance_from_frame` gives -> its column."""

STAGE_COLUMNS = {"nearest_centre_accuracy": "NCC acc.", "within_cosine": "cosine"}
"""What a stage has on ID test beside metrics of the training set -> its column."""


def all_tables(names: Sequence[str], records: Records) -> list[Table]:
    """Every table of some diagnoses over all classes, ``names`` in the columns of the first."""
    made = tables_by_name(names, records)
    return [table for name, tables in made.items() if name != "classes" for table in tables]


def tables_by_name(names: Sequence[str], records: Records) -> dict[str, list[Table]]:
    """The tables of some diagnoses by what they are of; empty lists where there is nothing to say."""
    made: dict[str, Sequence[Table | None]] = {
        "collapse": [collapse_table(names, records), sample_mean_table(names, records)],
        "ood": [ood_table(records)],
        "layers": [layers_table(records)],
        "classes": [class_table(name, record) for name, record in zip(names, records)],
    }
    return {name: [table for table in tables if table is not None] for name, tables in made.items()}


def collapse_table(names: Sequence[str], records: Records) -> Table:
    """Collapse metrics on the training set, one column a network; NC4 and CDNV on held-out splits too."""
    first = records[0].collapse
    rows = [["metric", "at collapse", *names]]
    for metric in _on_statistics():
        values = (record.collapse.values[metric.name] for record in records)
        rows.append([metric.label, at_collapse(metric, len(first.classes), first.num_features), *map(number, values)])
    for split in records[0].nc4:
        name = "id/train" if split == "train" else split
        nc4 = [record.nc4[split] for record in records]
        agreements = (number(each.agreement if each else None) for each in nc4)
        rows.append([f"{METRICS['nc4_train'].label}, {name}", "1", *agreements])
        accuracies = (number(each.accuracy if each else None) for each in nc4)
        rows.append([f"    nearest-class-centre accuracy, {name}", UNKNOWN, *accuracies])
    for field, by_split in records[0].held_out.items():
        metric = METRICS[field]
        ideal = at_collapse(metric, len(first.classes), first.num_features)
        for split in by_split:
            values = (record.held_out[field][split] for record in records)
            rows.append([f"{metric.label}, {split}", ideal, *map(number, values)])
    title = (
        f"{records[0].benchmark}, neural collapse on {first.num_samples} training samples: {len(first.classes)} of"
        f" {first.num_classes} classes, {first.num_features} features; mu_G = mean of the class means; rank of Sigma_B"
        f" {first.between_rank} (rcond {first.rcond:g})"
    )
    sources = dict.fromkeys(record.train_from for record in records)
    return Table(title, rows, [f"NC4 on id/train: {'; '.join(sources)}", *_notes(records)])


def at_collapse(metric: Metric, num_classes: int, num_features: int | None = None) -> str:
    """A metric's value at exact collapse, as text; that there is none where it is out of reach."""
    value = number(metric.at_collapse(num_classes, num_features))
    return value + (f" ({metric.frame})" if metric.frame and value != UNKNOWN else "")


def sample_mean_table(names: Sequence[str], records: Records) -> Table | None:
    """Collapse metrics that differ, in the digits shown, where mu_G is the mean of all samples; None if none does."""
    rows = []
    for metric in _on_statistics():
        shown = [number(record.collapse_sample_mean.values[metric.name]) for record in records]
        if shown != [number(record.collapse.values[metric.name]) for record in records]:
            rows.append([metric.label, *shown])
    title = f"{records[0].benchmark}, the metrics that differ where mu_G = mean of all samples"
    return Table(title, [["metric", *names], *rows]) if rows else None


def class_table(name: str, record: DiagnosisRecord) -> Table:
    """What is known of each class of one network."""
    collapse, metrics = record.collapse, of_training(per_class=True)
    shown = [collapse.values[metric.name] or [None] * len(collapse.classes) for metric in metrics]
    by_class = zip(collapse.classes, collapse.class_counts, *shown)
    rows = [[record.name_of(k), *map(number, values)] for k, *values in by_class]
    note = "angle: the smallest to another class, in degrees; mu_G = mean of the class means"
    title = f"{record.benchmark}, {name}: class by class on {collapse.num_samples} training samples"
    return Table(title, [["class", "n_k", *(metric.label for metric in metrics)], *rows], [note])


def ood_table(records: Records) -> Table:
    """Each split against the training means: means over networks."""
    metrics = [metric for metric in METRICS.values() if "split" in metric.of]
    quantiles = ("pScore 5/50/95 %", "||h||_1 5/50/95 %")
    rows = [["split", "n", *(metric.symbol for metric in metrics), *FRAME.values(), *quantiles]]
    for name, split in records[0].splits.items():
        same = [record.splits[name] for record in records]
        values = [_mean(each.metrics.get(metric.name) for each in same) for metric in metrics]
        frame = [_mean(each.frame[key] if each.frame else None for each in same) for key in FRAME]
        spreads = [_quantiles([each.spreads.get(score) for each in same]) for score in SPREADS]
        rows.append([name, str(split.n), *values, *frame, *spreads])
    return Table(
        f"ID and OOD against the class means of the training set{_over(records)}",
        rows,
        [
            "OrthoDev: mean |cos| of the split's mean with the class means, uncentred. Means over samples: share of"
            " ||h - mu_G|| in the span of the centred class means; angle in degrees to the nearest of them, and"
            " to the nearest vertex of the simplex ETF that fits them best; distance to the nearest class mean over"
            " their mean distance from mu_G. At collapse ID has 1, 0, 0 and 0."
        ],
    )


def layers_table(records: Records) -> Table | None:
    """Collapse after every stage, means over networks; None where layers were not measured."""
    layers = [record.layers for record in records if record.layers is not None]
    if len(layers) < len(records):
        return None
    stages = mean_over_networks(layers)
    groups = list(stages[0].auroc)
    scores = list(dict.fromkeys(score for stage in stages for group in groups for score in stage.auroc[group]))
    metrics = columns(STAGES)
    shown = {**{name: metric.symbol for name, metric in metrics.items()}, **STAGE_COLUMNS}
    rows = [["stage", "P", *shown.values(), *scores]]
    for stage in stages:
        aurocs = [" / ".join(percent(stage.auroc[group].get(score)) for group in groups) for score in scores]
        values = [number(stage.values.get(name)) for name in shown]
        rows.append([stage.stage, f"{stage.values['num_features']:.0f}", *values, *aurocs])
    notes = dict.fromkeys(
        f"note: {stage.stage}: {field}: {reason}"
        for stages in layers
        for stage in stages
        for field, reason in stage.notes.items()
        if field in shown or field not in METRICS
    )
    return Table(
        "Stage by stage with a nearest-class-centre head: NC1 = Tr(Sigma_W) / Tr(Sigma_B) on train,"
        f" NCC accuracy and mean cosine within classes on id/test{_over(records)}",
        rows,
        [
            (f"last columns: AUROC in percent, {' / '.join(groups)}-OOD; " if groups else "") + POOLING,
            *(f"{METRICS[name].label} {_progress(each)}" for name, each in progressive(stages).items()),
            *notes,
        ],
    )


def _progress(found: Progress | str) -> str:
    """How a metric goes through the stages, or why that is not defined."""
    return f"over stages: {found.partition(': ')[2]}" if isinstance(found, str) else str(found)


def explanation_text(explanation: Explanation) -> str:
    said = (folded(f"- {text}") for text in explanation.sentences)
    return "\n".join(["What the numbers say, sentence by rule", *said])


def _on_statistics() -> list[Metric]:
    """The metrics of one number that statistics and head give."""
    return [metric for metric in of_training() if not metric.of_features]


def _notes(records: Records) -> list[str]:
    """Reasons of values that are missing or must be read with care, once for all that share them."""
    reasons: dict[str, dict[str, None]] = {}
    for record in records:
        for field, reason in {**record.collapse.notes, **record.notes, **record.not_scored}.items():
            reasons.setdefault(reason, {})[field] = None
    return [f"note: {', '.join(fields)}: {reason}" for reason, fields in reasons.items()]


def _over(records: Records) -> str:
    return f", means over {len(records)} networks" if len(records) > 1 else ""


def _quantiles(spreads: Sequence[Mapping[str, Any] | None]) -> str:
    known = [each["quantiles"] for each in spreads if each]
    if len(known) < len(spreads):
        return UNKNOWN
    return " / ".join(number(value) for value in np.mean(known, axis=0)[[0, 2, 4]])


def _mean(values: Iterable[float | None]) -> str:
    known = list(values)
    return UNKNOWN if None in known else number(float(np.mean(known)))  # type: ignore[arg-type]  # None was excluded
