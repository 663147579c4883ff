"""All collapse metrics of one network, from ClassStatistics and LinearHead."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, Optional

from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_number
from nci_plugin.collapse import duality, means, variability
from nci_plugin.collapse.geometry import (
    RCOND,
    Undefined,
    between_directions,
    centred_means,
    chords,
    lengths,
    present_classes,
)
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

Value = Optional[float]
PerClass = Optional[tuple[float, ...]]

NEEDS_ETF = ("nc2_equiangular_means", "nc2_equiangular_weights", "nc2_etf_error", "nc3_duality_error")
"""Metrics whose value at exact collapse, 0, is out of reach where there is no simplex ETF."""


@dataclass(frozen=True)
class CollapseMetrics:
    """Neural collapse of one network in numbers.

    Everything is over the classes that have samples: ``classes`` lists them and per-class values follow its order,
    those of weights too. A metric that has no value here is None, and ``notes`` gives the reason under its name; a
    value that must be read with care has a note too. At exact collapse every nc1 is 0, nc2_equinorm, nc2_equiangular,
    nc2_etf_error, nc3_self_duality and nc3_duality_error are 0, nc3_cosines are 1, and gnc2 is that of a simplex ETF:
    log mean -0.5 log(2K / (K-1)), variance 0. The functions of the same equations have the papers.
    """

    num_classes: int  # of the head; those without samples are left out of all that follows
    num_features: int
    num_samples: int
    mean_convention: str  # mu_G is the mean of the class means ("classes") or of all samples ("samples")
    rcond: float  # eigenvalues of Sigma_B up to this share of the largest are zero to nc1_pinv
    etf_exists: bool  # K <= P + 1
    classes: tuple[int, ...]
    class_counts: tuple[int, ...]

    # NC1
    between_rank: int  # of Sigma_B, by rcond
    nc1_pinv: Value  # Tr(pinv(Sigma_B) Sigma_W) / K
    nc1_quotient: Value  # Tr(Sigma_W) / Tr(Sigma_B)
    nc1_cdnv: Value
    class_variances: tuple[Value, ...]  # mean ||h - mu_k||^2; None for a class of one sample

    # NC2, and NC2 without a simplex
    nc2_centred_norms: PerClass  # ||mu_k - mu_G||
    nc2_weight_norms: PerClass  # ||w_k||
    nc2_equinorm_means: Value
    nc2_equinorm_weights: Value
    nc2_equiangular_means: Value
    nc2_equiangular_weights: Value
    nc2_etf_error: Value  # of the centred means
    gnc2_log_mean: Value
    gnc2_log_variance: Value

    # NC3; "uncentred" is the cosine with mu_k itself, which is not NC3
    nc3_self_duality: Value
    nc3_duality_error: Value
    nc3_cosines: PerClass
    nc3_cosine_mean: Value
    nc3_cosine_std: Value  # over classes, with K - 1
    uncentred_cosines: PerClass
    uncentred_cosine_mean: Value

    # Norms of features, not centred
    mean_norm_l2: Value
    mean_norm_l1: Value
    class_norms_l2: PerClass  # mean ||h||_2 of each class
    class_mean_norms: PerClass  # ||mu_k||

    # Imbalance: general orthogonal frame, minority collapse
    imbalance_ratio: Value  # largest over smallest class
    gof_mean_abs_cosine_uncentred: Value
    gof_slope_means: Value  # of log ||mu_k|| against log n_k
    gof_slope_weights: Value
    minority_classes: tuple[int, ...]  # smaller than sqrt(largest * smallest); none below IMBALANCE
    minority_cosine_means: Value  # of centred means
    minority_cosine_weights: Value
    smallest_angles_means: PerClass  # of each centred mean to another, in degrees
    smallest_angles_weights: PerClass
    smallest_angle_means: Value  # the smallest of them
    smallest_angle_weights: Value
    effective_rank_means: Value  # of centred means
    effective_rank_weights: Value

    notes: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON: no NaN, no infinity."""
        return asdict(self)


def measure(
    statistics: ClassStatistics, head: LinearHead, mean: str = "classes", rcond: float = RCOND
) -> CollapseMetrics:
    """Neural collapse of a network from statistics of its training features, in float64.

    Args:
        statistics: of the features of every training sample, K classes, P features.
        head: the last layer, W (K, P).
        mean: mu_G is the mean of the class means (``classes``, as in the papers) or of all samples (``samples``).
        rcond: share of its largest eigenvalue up to which an eigenvalue of Sigma_B is zero to the pseudo-inverse.

    Raises PluginError if the two do not belong together or hold nothing. Needs O(K^2 + P^2) memory.
    """
    check_number("collapse: rcond", rcond, least=0)
    _check_head(head, statistics)
    classes = present_classes(statistics)
    counts = statistics.counts[classes]
    raw, centred = statistics.means[classes], centred_means(statistics, mean)
    weight = head.weight.detach().cpu().double()[classes]
    between = cache(lambda: between_directions(centred, rcond))
    centred_chords, weight_chords = cache(lambda: chords(centred)), cache(lambda: chords(weight))
    equations: dict[str, Callable[[], float | Tensor]] = {
        "nc1_pinv": lambda: variability.pinv_trace(statistics, *between()),
        "nc1_quotient": lambda: variability.nc1_quotient(statistics, mean),
        "nc1_cdnv": lambda: variability.nc1_cdnv(statistics),
        "nc2_centred_norms": lambda: lengths(centred),
        "nc2_weight_norms": lambda: lengths(weight),
        "nc2_equinorm_means": lambda: means.equinorm(centred),
        "nc2_equinorm_weights": lambda: means.equinorm(weight),
        "nc2_equiangular_means": lambda: means.equiangular(centred),
        "nc2_equiangular_weights": lambda: means.equiangular(weight),
        "nc2_etf_error": lambda: means.etf_error(centred),
        "gnc2_log_mean": lambda: means.log_mean(centred_chords()),
        "gnc2_log_variance": lambda: means.log_variance(centred_chords()),
        "nc3_self_duality": lambda: duality.self_duality(weight, centred),
        "nc3_duality_error": lambda: duality.duality_error(weight, centred),
        "nc3_cosines": lambda: duality.class_cosines(weight, centred),
        "nc3_cosine_mean": lambda: duality.class_cosines(weight, centred).mean(),
        "nc3_cosine_std": lambda: duality.cosine_std(weight, centred),
        "uncentred_cosines": lambda: duality.class_cosines(weight, raw),
        "uncentred_cosine_mean": lambda: duality.class_cosines(weight, raw).mean(),
        "mean_norm_l2": lambda: statistics.l2_norm_sums.sum() / counts.sum(),
        "mean_norm_l1": lambda: statistics.l1_norm_sums.sum() / counts.sum(),
        "class_norms_l2": lambda: statistics.l2_norm_sums[classes] / counts,
        "class_mean_norms": lambda: lengths(raw),
        "imbalance_ratio": lambda: counts.max() / counts.min(),
        "gof_mean_abs_cosine_uncentred": lambda: means.mean_abs_cosine(raw),
        "gof_slope_means": lambda: means.log_slope(raw, counts),
        "gof_slope_weights": lambda: means.log_slope(weight, counts),
        "minority_cosine_means": lambda: means.minority_cosine(centred, counts),
        "minority_cosine_weights": lambda: means.minority_cosine(weight, counts),
        "smallest_angles_means": lambda: means.smallest_angles(centred_chords(), len(classes)),
        "smallest_angles_weights": lambda: means.smallest_angles(weight_chords(), len(classes)),
        "smallest_angle_means": lambda: means.smallest_angles(centred_chords(), len(classes)).min(),
        "smallest_angle_weights": lambda: means.smallest_angles(weight_chords(), len(classes)).min(),
        "effective_rank_means": lambda: means.effective_rank(centred),
        "effective_rank_weights": lambda: means.effective_rank(weight),
    }
    etf_exists = len(classes) <= head.num_features + 1
    notes = _notes(counts, head.num_features, etf_exists)
    values = {name: _value(name, equation, notes) for name, equation in equations.items()}
    variances = variability.class_variances(statistics).tolist()
    return CollapseMetrics(
        num_classes=head.num_classes,
        num_features=head.num_features,
        num_samples=statistics.num_samples,
        mean_convention=mean,
        rcond=rcond,
        etf_exists=etf_exists,
        classes=tuple(classes.tolist()),
        class_counts=tuple(map(int, counts.tolist())),
        between_rank=_value("between_rank", lambda: len(between()[0]), {}) or 0,
        class_variances=tuple(v if n > 1 else None for v, n in zip(variances, counts.tolist())),
        minority_classes=tuple(classes[means.is_minority(counts)].tolist()),
        notes=notes,
        **values,
    )


def _check_head(head: LinearHead, statistics: ClassStatistics) -> None:
    shape = (statistics.num_classes, statistics.num_features)
    if tuple(head.weight.shape) != shape:
        raise PluginError(
            f"collapse: the statistics are of {shape[0]} classes and {shape[1]} features, the head has"
            f" {head.num_classes} and {head.num_features}; both must come from the same network"
        )
    check_finite("collapse: squared weight of the head", head.weight.double().square())


def _value(name: str, equation: Callable[[], float | Tensor], notes: dict[str, str]) -> Any:
    """A number, or a tuple of them; None where the equation has no value, with the reason in ``notes``."""
    try:
        result = equation()
    except Undefined as reason:
        notes[name] = str(reason)
        return None
    values = result.tolist() if isinstance(result, Tensor) else result
    if not all(map(math.isfinite, values if isinstance(values, list) else [values])):
        notes[name] = "collapse: the value is beyond the range of float64"
        return None
    return tuple(values) if isinstance(values, list) else values


def _notes(counts: Tensor, num_features: int, etf_exists: bool) -> dict[str, str]:
    """What must be known to read the values of these classes."""
    notes = {}
    single = int((counts == 1).sum())
    if single:
        notes["class_variances"] = (
            f"{single} of {len(counts)} classes have one sample and so no variance:"
            " nc1_cdnv leaves them out, to nc1_pinv and nc1_quotient they add nothing"
        )
    if not etf_exists:
        text = (
            f"{len(counts)} classes in {num_features} features: no simplex ETF exists for K > P + 1,"
            " so 0 cannot be reached; gnc2 holds there"
        )
        notes.update(dict.fromkeys(NEEDS_ETF, text))
    return notes
