"""What the collapse of several networks and the AUROC of their scores say together, in sentences made by rule.

The rules, all of them:

1. Each property: its metric and the AUROC of its score, mean ± population standard deviation over checkpoints.
2. In each group the property whose score has the highest mean AUROC is named; it is called ahead of the second only
   where it has the higher AUROC on every checkpoint, and there are at least two.
3. Rank correlation of metric and AUROC over checkpoints is given from MIN_CHECKPOINTS on, and called different from 0
   only where its permutation p-value is below LEVEL divided by the number of correlations (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import permutation_test, rankdata

from nci_plugin.benchmarks.benchmark import FAR, NEAR

GROUPS = (NEAR, FAR)
LEVEL = 0.05
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Property:
    """A collapse property: its metric of one network and group, the metric's value at collapse, its score's name."""

    name: str
    score: str
    metric: str
    at_collapse: float
    read: Callable[[Mapping[str, Any], str], float | None]


def _collapse(field: str) -> Callable[[Mapping[str, Any], str], float | None]:
    return lambda record, group: record["collapse"][field]


def _agreement(record: Mapping[str, Any], group: str) -> float | None:
    return record["nc4"]["train"]["agreement"] if record["nc4"]["train"] else None


def _ortho_dev(record: Mapping[str, Any], group: str) -> float | None:
    values = [split["ortho_dev"] for name, split in record["splits"].items() if name.split("/")[0] == group]
    return None if None in values else float(np.mean(values))


PROPERTIES = (
    Property("NC1", "nc1", "Tr(Sigma_W) / Tr(Sigma_B)", 0.0, _collapse("nc1_quotient")),
    Property("NC2", "nc2", "ETF error of the centred class means", 0.0, _collapse("nc2_etf_error")),
    Property("NC3", "nc3", "self-duality", 0.0, _collapse("nc3_self_duality")),
    Property("NC4", "nc4", "nearest-class-centre agreement", 1.0, _agreement),
    Property("NC5", "nc5", "OrthoDev of the OOD sets", 0.0, _ortho_dev),
)

TESTS = len(PROPERTIES) * len(GROUPS)
MIN_CHECKPOINTS = next(n for n in range(2, 20) if 2 / math.factorial(n) < LEVEL / TESTS)
"""With fewer even a perfect order, of exact p-value 2 / n!, is not below LEVEL / TESTS."""


def explain(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables and sentences about the diagnoses of some networks on one benchmark; JSON without NaN.

    ``properties`` holds, for each property and group, ``metric`` and ``auroc`` (percent) by checkpoint, and
    ``correlation`` (rho, p) or None.
    """
    rows = [_row(each, group, records) for group in GROUPS for each in PROPERTIES if _has(records, group)]
    if not rows:
        return {"checkpoints": len(records), "properties": [], "sentences": _without_ood(records)}
    sentences = [_about(each, rows) for each in PROPERTIES]
    for group in GROUPS:
        sentences += _best([row for row in rows if row["group"] == group])
    return {"checkpoints": len(records), "properties": rows, "sentences": [*sentences, *_correlations(rows, records)]}


def _has(records: Sequence[Mapping[str, Any]], group: str) -> bool:
    return any(name.split("/")[0] == group for name in records[0]["splits"])


def _row(each: Property, group: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metric = [each.read(record, group) for record in records]
    auroc = [record["auroc"].get(each.score, {}).get(group) for record in records]
    return {
        "property": each.name,
        "group": group,
        "score": each.score,
        "metric_name": each.metric,
        "at_collapse": each.at_collapse,
        "metric": metric,
        "auroc": auroc,
        "correlation": correlation(metric, auroc),
    }


def correlation(first: Sequence[float | None], second: Sequence[float | None]) -> dict[str, float] | None:
    """Spearman's rank correlation ``rho`` and its two-sided permutation p-value ``p``, exact up to 7 checkpoints.

    None with fewer than MIN_CHECKPOINTS, where a value is missing and where one side is constant.
    """
    if len(first) < MIN_CHECKPOINTS or None in first or None in second:
        return None
    x, y = rankdata(first), rankdata(second)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None

    def rho(permuted: Any, axis: int = -1) -> Any:
        return ((permuted - x.mean()) * (y - y.mean())).mean(axis=axis) / (x.std() * y.std())

    test = permutation_test(
        (x,), rho, permutation_type="pairings", vectorized=True, n_resamples=PERMUTATIONS, random_state=0
    )
    return {"rho": float(test.statistic), "p": float(test.pvalue)}


def _about(each: Property, rows: Sequence[Mapping[str, Any]]) -> str:
    """Rule 1, for the groups that there are."""
    by_group = {row["group"]: row for row in rows if row["property"] == each.name}
    metric = {group: over_networks(row["metric"], ".4g") for group, row in by_group.items()}
    if len(set(metric.values())) == 1:
        value = f"on train is {next(iter(metric.values()))}"
    else:
        value = f"is {', '.join(f'{group} {text}' for group, text in metric.items())}"
    auroc = ", ".join(f"{group} {over_networks(row['auroc'], '.2f')}" for group, row in by_group.items())
    return f"{each.name}: {each.metric} {value} ({each.at_collapse:g} at collapse); AUROC of {each.score}: {auroc}."


def _without_ood(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rule 1 where there is no OOD set: the metrics of the training set."""
    on_train = [each for each in PROPERTIES if each.read is not _ortho_dev]
    sentences = []
    for each in on_train:
        value = over_networks([each.read(record, "") for record in records], ".4g")
        sentences.append(f"{each.name}: {each.metric} on train is {value} ({each.at_collapse:g} at collapse).")
    return [*sentences, "The benchmark has no OOD set: NC5, AUROC and its correlation with collapse are left out."]


def over_networks(values: Sequence[float | None], form: str) -> str:
    """``mean ± std`` over checkpoints; the number alone for one, ``unknown`` where one has none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "unknown"
    mean = f"{np.mean(known):{form}}"
    deviation = np.std(known) if np.ptp(known) else 0.0  # equal values would give rounding
    return mean if len(known) == 1 else f"{mean} ± {deviation:{form}}"


def _best(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ranked = sorted((row for row in rows if None not in row["auroc"]), key=lambda row: -float(np.mean(row["auroc"])))
    if len(ranked) < 2:
        return []
    first, second = ranked[:2]
    wins = sum(a > b for a, b in zip(first["auroc"], second["auroc"]))
    count = len(first["auroc"])
    if count == 1:
        verdict = "one checkpoint says nothing of the spread"
    elif wins == count:
        verdict = f"ahead on all {count} checkpoints"
    else:
        verdict = f"ahead on {wins} of {count} checkpoints only"
    best, next_best = (f"{row['score']} ({np.mean(row['auroc']):.2f})" for row in (first, second))
    return [
        f"{first['group']}-OOD: of the {len(ranked)} scores {best} has the highest mean AUROC, {next_best} the second;"
        f" {verdict}."
    ]


def _correlations(rows: Sequence[Mapping[str, Any]], records: Sequence[Any]) -> list[str]:
    if len(records) < MIN_CHECKPOINTS:
        return [
            f"Rank correlation of metrics and AUROC needs at least {MIN_CHECKPOINTS} checkpoints, here"
            f" {'is' if len(records) == 1 else 'are'} {len(records)}: with fewer even a perfect order is not"
            f" significant at {LEVEL:g} over {TESTS} correlations."
        ]
    known = [row for row in rows if row["correlation"]]
    limit = LEVEL / max(len(known), 1)
    return [
        f"{row['property']} and {row['group']}-OOD AUROC of {row['score']}: rank correlation"
        f" {row['correlation']['rho']:+.2f} over {len(records)} checkpoints (p = {row['correlation']['p']:.2g},"
        f" {'different' if row['correlation']['p'] < limit else 'not different'} from 0 at {LEVEL:g} / {len(known)})."
        for row in known
    ]
