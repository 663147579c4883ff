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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from scipy.stats import permutation_test, rankdata

from nci_plugin.benchmarks.benchmark import FAR, NEAR, Split
from nci_plugin.collapse import METRICS
from nci_plugin.diagnosis.record import DiagnosisRecord, Value

GROUPS = (NEAR, FAR)
Correlation = Optional[Mapping[str, float]]
LEVEL = 0.05
PERMUTATIONS = 9999


@dataclass(frozen=True)
class Property:
    """A property of collapse: the score of samples, the metric that it goes with and what sentences call that."""

    score: str
    metric: str
    text: str

    @property
    def name(self) -> str:
        return METRICS[self.metric].aspect

    def read(self, record: DiagnosisRecord, group: str) -> float | None:
        """The metric's value, of a group of OOD sets where it is about one; None where there is none."""
        if self.metric == "nc4_train":
            train = record.nc4["train"]
            return train.agreement if train else None
        if not METRICS[self.metric].of_features:
            return record.collapse.values[self.metric]
        values = [
            split.metrics[self.metric] for name, split in record.splits.items() if Split.parse(name).group == group
        ]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None


PROPERTIES = (
    Property("nc1", "nc1_quotient", "Tr(Sigma_W) / Tr(Sigma_B)"),
    Property("nc2", "nc2_etf_error", "ETF error of the centred class means"),
    Property("nc3", "nc3_self_duality", "self-duality"),
    Property("nc4", "nc4_train", "nearest-class-centre agreement"),
    Property("nc5", "ortho_dev", "OrthoDev of the OOD sets"),
)

TESTS = len(PROPERTIES) * len(GROUPS)
MIN_CHECKPOINTS = next(n for n in range(2, 20) if 2 / math.factorial(n) < LEVEL / TESTS)
"""With fewer even a perfect order, of exact p-value 2 / n!, is not below LEVEL / TESTS."""


@dataclass(frozen=True)
class PropertyRow:
    """A property in a group of OOD sets: ``metric`` and ``auroc`` (percent) by network, and how they go together.

    ``metric_name`` is the metric in words, ``at_collapse`` its value there, None where it is out of reach;
    ``correlation`` (rho, p) can be None.
    """

    property: str
    group: str
    score: str
    metric_name: str
    at_collapse: Value
    metric: Sequence[Value]
    auroc: Sequence[Value]
    correlation: Correlation


@dataclass(frozen=True)
class Explanation:
    """Tables and sentences about the diagnoses of ``checkpoints`` networks on one benchmark."""

    checkpoints: int
    properties: Sequence[PropertyRow]
    sentences: Sequence[str]


def explain(records: Sequence[DiagnosisRecord]) -> Explanation:
    """What the diagnoses of some networks on one benchmark say together."""
    groups = [group for group in GROUPS if any(Split.parse(name).group == group for name in records[0].splits)]
    rows = [_row(each, group, records) for group in groups for each in PROPERTIES]
    if not rows:
        return Explanation(len(records), [], _without_ood(records))
    best = [sentence for group in groups for sentence in _best([row for row in rows if row.group == group])]
    sentences = [*(_about(each, rows) for each in PROPERTIES), *best, *_correlations(rows, records)]
    return Explanation(len(records), rows, sentences)


def _row(each: Property, group: str, records: Sequence[DiagnosisRecord]) -> PropertyRow:
    metric = [each.read(record, group) for record in records]
    auroc = [record.auroc.get(each.score, {}).get(group) for record in records]
    collapse = records[0].collapse
    ideal = METRICS[each.metric].at_collapse(len(collapse.classes), collapse.num_features)
    return PropertyRow(each.name, group, each.score, each.text, ideal, metric, auroc, correlation(metric, auroc))


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


def _about(each: Property, rows: Sequence[PropertyRow]) -> str:
    """Rule 1, for the groups that there are; of the metric alone for the rows of no group."""
    mine = [row for row in rows if row.property == each.name]
    metric = {row.group: over_networks(row.metric, ".4g") for row in mine}
    if len(set(metric.values())) == 1:
        value = f"on train is {next(iter(metric.values()))}"
    else:
        value = f"is {', '.join(f'{group} {text}' for group, text in metric.items())}"
    said = f"{each.name}: {each.text} {value} ({ideal_text(mine[0].at_collapse)})"
    auroc = ", ".join(f"{row.group} {over_networks(row.auroc, '.2f')}" for row in mine if row.group)
    return f"{said}; AUROC of {each.score}: {auroc}." if auroc else f"{said}."


def ideal_text(at_collapse: float | None) -> str:
    """The value at collapse in words."""
    return "out of reach at collapse: K > P + 1" if at_collapse is None else f"{at_collapse:g} at collapse"


def _without_ood(records: Sequence[DiagnosisRecord]) -> list[str]:
    """Rule 1 where there is no OOD set: the metrics of the training set."""
    measured = [each for each in PROPERTIES if "split" not in METRICS[each.metric].of]
    said = [_about(each, [_row(each, "", records)]) for each in measured]
    return [*said, "The benchmark has no OOD set: NC5, AUROC and its correlation with collapse are left out."]


def over_networks(values: Sequence[float | None], form: str) -> str:
    """``mean ± std`` over checkpoints; the number alone for one, ``unknown`` where one has none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "unknown"
    mean = f"{np.mean(known):{form}}"
    deviation = np.std(known) if np.ptp(known) else 0.0  # equal values would give rounding
    return mean if len(known) == 1 else f"{mean} ± {deviation:{form}}"


def _best(rows: Sequence[PropertyRow]) -> list[str]:
    aurocs = {row.score: np.array(row.auroc, dtype=np.float64) for row in rows if None not in row.auroc}
    if len(aurocs) < 2:
        return []
    first, second = sorted(aurocs, key=lambda score: -float(aurocs[score].mean()))[:2]
    wins, count = int((aurocs[first] > aurocs[second]).sum()), len(aurocs[first])
    if count == 1:
        verdict = "one checkpoint says nothing of the spread"
    elif wins == count:
        verdict = f"ahead on all {count} checkpoints"
    else:
        verdict = f"ahead on {wins} of {count} checkpoints only"
    best, next_best = (f"{score} ({aurocs[score].mean():.2f})" for score in (first, second))
    return [
        f"{rows[0].group}-OOD: of the {len(aurocs)} scores {best} has the highest mean AUROC, {next_best} the second;"
        f" {verdict}."
    ]


def _correlations(rows: Sequence[PropertyRow], records: Sequence[Any]) -> list[str]:
    if len(records) < MIN_CHECKPOINTS:
        return [
            f"Rank correlation of metrics and AUROC needs at least {MIN_CHECKPOINTS} checkpoints, here"
            f" {'is' if len(records) == 1 else 'are'} {len(records)}: with fewer even a perfect order is not"
            f" significant at {LEVEL:g} over {TESTS} correlations."
        ]
    known = [(row, row.correlation) for row in rows if row.correlation]
    limit = LEVEL / max(len(known), 1)
    return [
        f"{row.property} and {row.group}-OOD AUROC of {row.score}: rank correlation"
        f" {found['rho']:+.2f} over {len(records)} checkpoints (p = {found['p']:.2g},"
        f" {'different' if found['p'] < limit else 'not different'} from 0 at {LEVEL:g} / {len(known)})."
        for row, found in known
    ]
