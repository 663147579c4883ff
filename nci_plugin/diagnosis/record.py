"""What a diagnosis of one network says: the record that is stored as ``diagnosis/<seed>.json``, and its reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from nci_plugin.checks import PluginError, shown
from nci_plugin.collapse import METRICS, CollapseMetrics, NearestCentre, Progress, Undefined, progress

VERSION = 2
"""Of the record; one of another version is not read."""

SPREADS = ("pscore", "feature_norm")
"""Scores whose spread on each split a diagnosis gives."""

PROGRESSIVE = ("nc1_quotient", "nc1_pinv")
"""The metrics whose way through the stages is put into numbers; the second is the D of He & Su (2023) but for 1/K."""

SAME_STAGE = 1e-5
"""Relative difference up to which the last two stages are the same features in float32."""

Value = Optional[float]


@dataclass(frozen=True)
class SplitRecord:
    """One ID or OOD split of ``n`` samples against the class means of the training set.

    ``metrics`` by name are those ``of`` a split; ``frame`` is `distance_from_frame`, None where there is none;
    ``spreads`` are of those of SPREADS that were scored.
    """

    n: int
    metrics: Mapping[str, Value]
    frame: Mapping[str, Value] | None
    spreads: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {"n": self.n, **self.metrics, "frame": self.frame, **self.spreads}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> SplitRecord:
        spreads = {name: saved[name] for name in SPREADS if name in saved}
        metrics = {name: saved[name] for name in saved if name not in ("n", "frame", *SPREADS)}
        return cls(saved["n"], metrics, saved["frame"], spreads)


@dataclass(frozen=True)
class StageRecord:
    """A stage of a network: ``values`` are num_features, metrics by name and nearest_centre_accuracy (0..1).

    ``auroc`` is in percent by group and score; what does not exist is None or left out, ``notes`` say why.
    """

    stage: str
    values: Mapping[str, Value]
    auroc: Mapping[str, Mapping[str, float]]
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"stage": self.stage, **self.values, "auroc": self.auroc, "notes": self.notes}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> StageRecord:
        values = {name: value for name, value in saved.items() if name not in ("stage", "auroc", "notes")}
        return cls(saved["stage"], values, saved["auroc"], saved.get("notes", {}))


@dataclass(frozen=True)
class DiagnosisRecord:
    """One network's diagnosis in plain numbers.

    ``nc4`` is by ``train`` (None where it was not measured, ``train_from`` says what it was read from) and held-out
    split; ``held_out`` by metric and split; ``auroc`` in percent by detector, and by group and data set; ``not_scored``
    and ``notes`` hold the reasons of what is missing. ``layers`` is None where stages were not measured.
    ``class_names`` are those of all classes by label, empty where nobody named them.

    `progressive` says how the metrics PROGRESSIVE go from stage to stage.
    """

    benchmark: str
    seed: str
    collapse: CollapseMetrics
    collapse_sample_mean: CollapseMetrics
    nc4: Mapping[str, NearestCentre | None]
    train_from: str
    held_out: Mapping[str, Mapping[str, Value]]
    splits: Mapping[str, SplitRecord]
    auroc: Mapping[str, Mapping[str, float]]
    not_scored: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    layers: Sequence[StageRecord] | None = None
    class_names: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"DiagnosisRecord({self.benchmark!r}, {self.seed or 'one network'}, {self.collapse!r})"

    def name_of(self, label: int) -> str:
        """What a class is called: its number where it has no name."""
        return self.class_names[label] if label < len(self.class_names) else str(label)

    @property
    def progressive(self) -> dict[str, Progress | str]:
        """`collapse.progress` over the stages of each of PROGRESSIVE, or why it has no value; empty without stages."""
        return {} if self.layers is None else progressive(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON without NaN."""
        nc4 = {name: each and asdict(each) for name, each in self.nc4.items()}
        return {
            "version": VERSION,
            "benchmark": self.benchmark,
            "seed": self.seed,
            "collapse": self.collapse.to_dict(),
            "collapse_sample_mean": self.collapse_sample_mean.to_dict(),
            "nc4": {"train": nc4.pop("train"), "train_from": self.train_from, **nc4},
            **self.held_out,
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "auroc": self.auroc,
            "not_scored": self.not_scored,
            "notes": self.notes,
            "provenance": self.provenance,
            **({"class_names": list(self.class_names)} if self.class_names else {}),
            **({} if self.layers is None else {"layers": [stage.to_dict() for stage in self.layers]}),
            **({} if self.layers is None else {"progressive": _as_numbers(self.progressive)}),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> DiagnosisRecord:
        """What `to_dict` gave; raises PluginError where it is of another version or kind."""
        if saved.get("version") != VERSION:
            raise PluginError(f"of version {shown(saved.get('version'))}, not {VERSION}")
        try:
            nc4 = {name: each and NearestCentre(**each) for name, each in saved["nc4"].items() if name != "train_from"}
            layers = saved.get("layers")
            return cls(
                **{name: saved[name] for name in ("benchmark", "seed", "auroc")},
                **{name: saved.get(name, {}) for name in ("not_scored", "notes", "provenance")},
                collapse=CollapseMetrics.from_dict(saved["collapse"]),
                collapse_sample_mean=CollapseMetrics.from_dict(saved["collapse_sample_mean"]),
                nc4=nc4,
                train_from=saved["nc4"]["train_from"],
                held_out={m.name: saved[m.name] for m in METRICS.values() if "held_out" in m.of and m.name in saved},
                splits={name: SplitRecord.from_dict(each) for name, each in saved["splits"].items()},
                class_names=[str(name) for name in saved.get("class_names", ())],
                layers=None if layers is None else [StageRecord.from_dict(each) for each in layers],
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise PluginError(f"not as this version writes it ({type(error).__name__}: {error})") from None


def progressive(layers: Sequence[StageRecord]) -> dict[str, Progress | str]:
    """`collapse.progress` of each of PROGRESSIVE over stages in their order, or the reason why it has no value.

    A last stage whose pooled output is the penultimate feature, as in a ResNet, counts once: it is no step.
    """
    found: dict[str, Progress | str] = {}
    for name in PROGRESSIVE:
        values = [stage.values.get(name) for stage in layers]
        before, last = [None, None, *values][-2:]
        if before is not None and last is not None and math.isclose(before, last, rel_tol=SAME_STAGE):
            values.pop()
        try:
            found[name] = progress(values)
        except Undefined as reason:
            found[name] = str(reason)
    return found


def _as_numbers(found: Mapping[str, Progress | str]) -> dict[str, Any]:
    return {name: {"note": each} if isinstance(each, str) else asdict(each) for name, each in found.items()}
