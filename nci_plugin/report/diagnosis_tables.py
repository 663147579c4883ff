"""The collapse report for a terminal and for the page, from stored diagnoses alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nci_plugin.diagnosis.layers import mean_over_networks
from nci_plugin.networks.stages import POOLING
from nci_plugin.report.tables import Table

Records = Sequence[Mapping[str, Any]]

UNKNOWN = "-"


def _etf(value: Callable[[int], float]) -> Callable[[Mapping[str, Any]], str]:
    return lambda collapse: _number(value(len(collapse["classes"]))) if len(collapse["classes"]) > 1 else UNKNOWN


METRICS: dict[str, tuple[str, str | Callable[[Mapping[str, Any]], str]]] = {
    "nc1_pinv": ("NC1 Tr(pinv(Sigma_B) Sigma_W) / K", "0"),
    "nc1_quotient": ("NC1 Tr(Sigma_W) / Tr(Sigma_B)", "0"),
    "nc1_cdnv": ("NC1 class-distance normalised variance", "0"),
    "nc2_equinorm_means": ("NC2 equinorm, centred means", "0"),
    "nc2_equinorm_weights": ("NC2 equinorm, weights", "0"),
    "nc2_equiangular_means": ("NC2 equiangular, centred means", "0"),
    "nc2_equiangular_weights": ("NC2 equiangular, weights", "0"),
    "nc2_etf_error": ("NC2 ETF error, centred means", "0"),
    "gnc2_log_mean": ("GNC2 mean log inverse distance", _etf(lambda k: -0.5 * math.log(2 * k / (k - 1)))),
    "gnc2_log_variance": ("GNC2 its variance", "0"),
    "nc3_self_duality": ("NC3 self-duality", "0"),
    "nc3_duality_error": ("NC3 duality error", "0"),
    "nc3_cosine_mean": ("NC3 mean cos(w_k, mu_k - mu_G), centred", "1"),
    "nc3_cosine_std": ("NC3 its std over classes", "0"),
    "uncentred_cosine_mean": ("    mean cos(w_k, mu_k), uncentred, not NC3", UNKNOWN),
    "mean_norm_l2": ("feature norm, mean ||h||_2", UNKNOWN),
    "mean_norm_l1": ("feature norm, mean ||h||_1", UNKNOWN),
    "imbalance_ratio": ("imbalance, largest / smallest class", UNKNOWN),
    "gof_mean_abs_cosine_uncentred": ("GOF mean |cos| of uncentred means", "0 (GOF)"),
    "gof_slope_means": ("GOF slope of log ||mu_k|| on log n_k", UNKNOWN),
    "gof_slope_weights": ("GOF slope of log ||w_k|| on log n_k", UNKNOWN),
    "minority_cosine_means": ("minority classes, mean cos of centred means", UNKNOWN),
    "minority_cosine_weights": ("minority classes, mean cos of weights", UNKNOWN),
    "smallest_angle_means": ("smallest angle of centred means, degrees", _etf(lambda k: _degrees(-1 / (k - 1)))),
    "smallest_angle_weights": ("smallest angle of weights, degrees", _etf(lambda k: _degrees(-1 / (k - 1)))),
    "effective_rank_means": ("effective rank of centred means", _etf(lambda k: k - 1)),
    "effective_rank_weights": ("effective rank of weights", _etf(lambda k: k - 1)),
}
"""Field of CollapseMetrics -> its name in the table, and its value at exact collapse."""


def _degrees(cosine: float) -> float:
    return math.degrees(math.acos(cosine))


def collapse_table(names: Sequence[str], records: Records) -> Table:
    """Collapse metrics on the training set, one column a network; NC4 and CDNV on held-out splits too."""
    first = records[0]["collapse"]
    rows = [["metric", "at collapse", *names]]
    for field, (label, target) in METRICS.items():
        rows.append([label, target if isinstance(target, str) else target(first), *_column(records, "collapse", field)])
    splits = [name for name in records[0]["nc4"] if name not in ("train", "train_from")]
    for name in ["train", *splits]:
        nc4 = [record["nc4"][name] for record in records]
        label = "id/train" if name == "train" else name
        rows.append([f"NC4 agreement, {label}", "1", *(_number(each and each["agreement"]) for each in nc4)])
        rows.append(
            [f"    nearest-class-centre accuracy, {label}", UNKNOWN, *(_number(e and e["accuracy"]) for e in nc4)]
        )
    rows += [[f"NC1 CDNV, {name}", "0", *_column(records, "held_out_cdnv", name)] for name in splits]
    classes = f"{len(first['classes'])} of {first['num_classes']} classes"
    title = (
        f"{records[0]['benchmark']}, neural collapse on {first['num_samples']} training samples: {classes},"
        f" {first['num_features']} features; mu_G = mean of the class means; rank of Sigma_B {first['between_rank']}"
        f" (rcond {first['rcond']:g})"
    )
    sources = list(dict.fromkeys(record["nc4"]["train_from"] for record in records))
    return Table(title, rows, [f"NC4 on id/train: {'; '.join(sources)}", *_notes(records)])


def sample_mean_table(names: Sequence[str], records: Records) -> Table | None:
    """Collapse metrics that differ, in the digits shown, where mu_G is the mean of all samples; None if none does."""
    columns = {field: _column(records, "collapse_sample_mean", field) for field in METRICS}
    rows = [
        [METRICS[field][0], *column]
        for field, column in columns.items()
        if column != _column(records, "collapse", field)
    ]
    title = f"{records[0]['benchmark']}, the metrics that differ where mu_G = mean of all samples"
    return Table(title, [["metric", *names], *rows]) if rows else None


PER_CLASS = {
    "class_counts": "n_k",
    "class_variances": "mean ||h - mu_k||^2",
    "class_norms_l2": "mean ||h||_2",
    "class_mean_norms": "||mu_k||",
    "nc2_centred_norms": "||mu_k - mu_G||",
    "nc2_weight_norms": "||w_k||",
    "nc3_cosines": "cos(w_k, mu_k - mu_G)",
    "uncentred_cosines": "cos(w_k, mu_k), not NC3",
    "smallest_angles_means": "angle of mu_k - mu_G",
    "smallest_angles_weights": "angle of w_k",
}
"""Field of CollapseMetrics with a value for each class -> its header."""


def class_table(name: str, record: Mapping[str, Any]) -> Table:
    """What is known of each class of one network."""
    collapse = record["collapse"]
    classes = collapse["classes"]
    columns = [[_number(value) for value in collapse[field] or [None] * len(classes)] for field in PER_CLASS]
    header = ["class", *PER_CLASS.values()]
    note = "angle: the smallest to another class, in degrees; mu_G = mean of the class means"
    title = f"{record['benchmark']}, {name}: class by class on {collapse['num_samples']} training samples"
    return Table(title, [header, *(list(row) for row in zip(map(str, classes), *columns))], [note])


def all_tables(names: Sequence[str], records: Records) -> list[Table]:
    """Every table of some diagnoses over all classes, ``names`` in the columns of the first."""
    tables = (
        collapse_table(names, records),
        sample_mean_table(names, records),
        ood_table(records),
        layers_table(records),
    )
    return [table for table in tables if table is not None]


def _column(records: Records, part: str, field: str) -> list[str]:
    return [_number(record[part][field]) for record in records]


def _notes(records: Records) -> list[str]:
    """Reasons of values that are missing or must be read with care, once for all that share them."""
    reasons: dict[str, list[str]] = {}
    for record in records:
        for field, reason in {**record["collapse"]["notes"], **record["notes"], **record["not_scored"]}.items():
            fields = reasons.setdefault(reason, [])
            fields += [field] * (field not in fields)
    return [f"note: {', '.join(fields)}: {reason}" for reason, fields in reasons.items()]


def ood_table(records: Records) -> Table:
    """Each split against the training means: means over networks."""
    rows = [
        [
            "split",
            "n",
            "OrthoDev",
            "share in span",
            "angle",
            "to ETF",
            "distance",
            "pScore 5/50/95 %",
            "||h||_1 5/50/95 %",
        ]
    ]
    for name, split in records[0]["splits"].items():
        same = [record["splits"][name] for record in records]
        frame = [
            _mean([each["frame"] and each["frame"][key] for each in same])
            for key in ("span_share", "vertex_angle", "etf_angle", "vertex_distance")
        ]
        spreads = [_quantiles([each.get(score) for each in same]) for score in ("pscore", "feature_norm")]
        rows.append([name, str(split["n"]), _mean([each["ortho_dev"] for each in same]), *frame, *spreads])
    return Table(
        "ID and OOD against the class means of the training set"
        + (f", means over {len(records)} networks" if len(records) > 1 else ""),
        rows,
        [
            "OrthoDev: mean |cos| of the split's mean with the class means, uncentred. Means over samples: share of"
            " ||h - mu_G|| in the span of the centred class means; angle in degrees to the nearest of them, and"
            " to the nearest vertex of the simplex ETF that fits them best; distance to the nearest class mean over"
            " their mean distance from mu_G. At collapse ID has 1, 0, 0 and 0."
        ],
    )


def _quantiles(spreads: Sequence[Mapping[str, Any] | None]) -> str:
    known = [each["quantiles"] for each in spreads if each]
    if len(known) < len(spreads):
        return UNKNOWN
    return " / ".join(_number(value) for value in np.mean(known, axis=0)[[0, 2, 4]])


def layers_table(records: Records) -> Table | None:
    """Collapse after every stage, means over networks; None where layers were not measured."""
    if not all("layers" in record for record in records):
        return None
    stages = mean_over_networks([record["layers"] for record in records])
    groups = list(stages[0]["auroc"])
    scores = list(dict.fromkeys(score for stage in stages for group in groups for score in stage["auroc"][group]))
    rows = [["stage", "P", "NC1", "CDNV", "equinorm", "equiang.", "ETF error", "NCC acc.", "||h||_2", *scores]]
    for stage in stages:
        fields = ("nc1_quotient", "nc1_cdnv", "nc2_equinorm_means", "nc2_equiangular_means", "nc2_etf_error")
        aurocs = [" / ".join(_percent(stage["auroc"][group].get(score)) for group in groups) for score in scores]
        rows.append(
            [
                stage["stage"],
                f"{stage['num_features']:.0f}",
                *(_number(stage[field]) for field in fields),
                _number(stage["nearest_centre_accuracy"]),
                _number(stage["mean_norm_l2"]),
                *aurocs,
            ]
        )
    notes = {
        f"note: {stage['stage']}: {field}: {reason}": None
        for record in records
        for stage in record["layers"]
        for field, reason in stage["notes"].items()
    }
    title = (
        "Stage by stage with a nearest-class-centre head: NC1 = Tr(Sigma_W) / Tr(Sigma_B) on train,"
        " NCC accuracy on id/test"
    )
    return Table(
        title + (f", means over {len(records)} networks" if len(records) > 1 else ""),
        rows,
        [(f"last columns: AUROC in percent, {' / '.join(groups)}-OOD; " if groups else "") + POOLING, *notes],
    )


def explanation_text(explanation: Mapping[str, Any]) -> str:
    return "\n".join(["What the numbers say, sentence by rule", *(f"- {text}" for text in explanation["sentences"])])


def _mean(values: Sequence[float | None]) -> str:
    return UNKNOWN if None in values else _number(float(np.mean(values)))  # type: ignore[arg-type]  # None was excluded


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    """Four significant digits, without an exponent where that stays short; whole numbers in full."""
    return UNKNOWN if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
