"""Values, paired differences and cliques of detectors, from their scores on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nci_plugin.checks import PluginError, check_known
from nci_plugin.comparison import bootstrap, delong, networks
from nci_plugin.comparison.bootstrap import Pairing
from nci_plugin.comparison.multiple import SIGNIFICANT, cliques, holm, step_down_max_t
from nci_plugin.comparison.records import Choice, Comparison, Difference, Value
from nci_plugin.comparison.samples import Samples, read_samples
from nci_plugin.metrics.counts import Counts, SortedScores

Matrix = NDArray[np.float64]
Groups = Mapping[str, Sequence[Pairing]]


@dataclass(frozen=True)
class _Group:
    """By network (S, D), the mean over images, and the two variances of a contrast; replicates (B, D) where drawn."""

    by_network: Matrix
    covariance_of_mean: Matrix
    covariance_of_one: Matrix
    replicates: Matrix | None


def check(samples: Samples, choice: Choice) -> tuple[dict[str, list[Pairing]], dict[str, int]]:
    """What is compared, by group, and the size of every split that takes part.

    Raises PluginError on fewer than two detectors, on an unknown one to compare against, on sets or predictions that
    are not there, and on a split of one sample, whose spread is not known.
    """
    names = samples.detectors
    if len(names) < 2:
        raise PluginError(
            f"benchmark '{samples.benchmark}': at least two detectors are compared, got {', '.join(names) or 'none'};"
            " evaluate another or name more with --detectors"
        )
    if choice.against is not None:
        check_known("detector to compare against", choice.against, names)
    if choice.of_metric.needs_wrong:
        samples.check_classes()
    groups = samples.groups(choice.of_metric, choice.setting)
    return groups, _sizes(samples, groups)


def _sizes(samples: Samples, groups: Groups) -> dict[str, int]:
    """Those of the splits that take part; raises PluginError on one of one sample."""
    used = {split for pairings in groups.values() for each in pairings for split in (*each.id_splits, each.ood_split)}
    sizes = {split: size for split, size in samples.sizes.items() if split in used}
    for split, size in sizes.items():
        if size < 2:
            raise PluginError(f"split '{split}': must have at least 2 samples to be compared on, got {size}; add some")
    return sizes


def compare(samples: Samples, choice: Choice) -> Comparison:
    """Compare the detectors of ``samples``, in percent.

    AUROC: DeLong's covariance and Holm, intervals of values by logits. Others: a stratified paired bootstrap with
    percentile intervals, and step-down max-T over the same replicates. Over several networks both are about networks
    drawn anew too (`networks`). Raises PluginError as `check` does.
    """
    groups, sizes = check(samples, choice)
    names = samples.detectors
    made = _measured(samples, choice, groups, sizes)
    pairs = list(combinations(range(len(names)), 2))
    if choice.against is not None:  # the others minus it
        place = names.index(choice.against)
        pairs = [(other, place) for other in range(len(names)) if other != place]
    single, (first, second) = np.eye(len(names)), np.transpose(pairs)
    estimates = [_estimate(each, single[first] - single[second], choice) for each in made.values()]

    def column(values: Callable[[_Estimate], Matrix | None]) -> Matrix:
        """Of all groups, one after the other."""
        return np.concatenate([each for each in map(values, estimates) if each is not None], axis=-1)

    p_values = column(lambda each: each.p)
    if choice.uses_delong:
        adjusted = holm(p_values)
    else:
        adjusted = step_down_max_t(column(lambda each: each.statistic), column(lambda each: each.null))
    points, low, high = column(lambda each: each.points), column(lambda each: each.low), column(lambda each: each.high)
    numbers = zip(points, np.maximum(low, -100), np.minimum(high, 100), p_values, adjusted)
    differences = [
        Difference(names[one], names[two], group, *map(float, each))
        for (group, (one, two)), each in zip(product(made, pairs), numbers)
    ]
    values = _values(samples, choice, made)
    comparison = Comparison(samples.benchmark, samples.networks, choice, sizes, values, differences, {})
    ties = {} if choice.against else {group: _ties(comparison, group) for group in groups}
    return replace(comparison, ties=ties)


@dataclass(frozen=True)
class Standings:
    """What the stored scores of a run say of its AUROCs, by setting, group and detector: ranks and 95 % intervals.

    Both are empty where scores are missing, and ``note`` says what to run.
    """

    ranks: Mapping[str, Mapping[str, Mapping[str, str]]]
    intervals: Mapping[tuple[str, str, str], tuple[float, float]]
    note: str


def standings(path: Path, detectors: Sequence[str], settings: Sequence[str]) -> Standings:
    """Compare some detectors of a results directory by AUROC, every pair; of one alone there are intervals."""
    ranks: dict[str, dict[str, dict[str, str]]] = {}
    intervals = {}
    try:
        for samples in read_samples([path], detectors) if detectors else ():
            for setting in settings:
                choice = Choice(setting=setting)
                if len(detectors) == 1:
                    found: Sequence[Value] = values(samples, choice, intervals=True)
                else:
                    comparison = compare(samples, choice)
                    found = comparison.values
                    ranks[setting] = {group: comparison.ranks(group) for group in comparison.groups}
                intervals.update({(setting, each.group, each.detector): (each.low, each.high) for each in found})
    except PluginError as error:
        return Standings({}, {}, f"which detectors tie is not known: {error}" if len(detectors) > 1 else "")
    return Standings(ranks, intervals, "")


def values(samples: Samples, choice: Choice, intervals: bool) -> list[Value]:
    """The metric of every detector on each group and each of its data sets, in percent; bounds if ``intervals``.

    Data sets are named by their split. Raises PluginError as `check` does, on one detector less.
    """
    groups: dict[str, Sequence[Pairing]] = dict(samples.groups(choice.of_metric, choice.setting))
    groups.update({each.ood_split: [each] for pairings in list(groups.values()) for each in pairings})
    sizes = _sizes(samples, groups) if intervals else {}
    return _values(samples, choice, _measured(samples, choice, groups, sizes))


def _measured(samples: Samples, choice: Choice, groups: Groups, sizes: Mapping[str, int]) -> dict[str, _Group]:
    """Each group's values and how they vary; the values alone where there are no ``sizes``."""
    make = _by_delong if choice.uses_delong and sizes else _by_bootstrap
    return make(samples, choice, groups, sizes)


def _values(samples: Samples, choice: Choice, made: Mapping[str, _Group]) -> list[Value]:
    single, values = np.eye(len(samples.detectors)), []
    for group, each in made.items():
        alone = _estimate(each, single, choice)
        bounds = np.array([alone.low, alone.high])
        if choice.uses_delong:
            bounds = 100 * np.array(delong.interval(alone.points / 100, (alone.high - alone.points) / 100))
        low, high = bounds.clip(0, 100).tolist()
        for place, name in enumerate(samples.detectors):
            by_network = tuple(map(float, each.by_network[:, place]))
            values.append(Value(name, group, float(alone.points[place]), low[place], high[place], by_network))
    return values


@dataclass(frozen=True)
class _Estimate:
    """Of J contrasts: points, interval, p, |t|, and |t| of the replicates (B, J) around their estimate."""

    points: Matrix
    low: Matrix
    high: Matrix
    p: Matrix
    statistic: Matrix
    null: Matrix | None


def _estimate(group: _Group, contrasts: Matrix, choice: Choice) -> _Estimate:
    by_network = group.by_network @ contrasts.T
    of_mean, of_one = (
        np.maximum(np.einsum("jd,de,je->j", contrasts, covariance, contrasts), 0)
        for covariance in (group.covariance_of_mean, group.covariance_of_one)
    )
    varying = by_network.mean(axis=0, keepdims=True) if choice.these_networks else by_network
    spread = networks.spread(varying, of_mean, of_one)
    points, error = by_network.mean(axis=0), spread.standard_error
    # The same scores leave rounding of a few 1e-16 of 100; a spread below it is none.
    none = error < 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(none, np.where(np.abs(points) < 1e-9, 0.0, np.nan), np.abs(points) / error)
    if group.replicates is None:
        half = spread.half_width
        return _Estimate(points, points - half, points + half, spread.p_values(statistic), statistic, None)
    deviations = networks.deviations(group.replicates @ contrasts.T, varying, of_mean, spread, choice.seed)
    low, high = points + np.percentile(deviations, [2.5, 97.5], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        null = np.where(none, 0.0, np.abs(deviations) / error)
    p = (1 + np.sum(null >= statistic, axis=0)) / (len(null) + 1)
    return _Estimate(points, low, high, np.where(np.isnan(statistic), np.nan, p), statistic, null)


def _by_delong(samples: Samples, choice: Choice, groups: Groups, sizes: Mapping[str, int]) -> dict[str, _Group]:
    made, networks_of = {}, range(len(samples.networks))
    unique = {pairing for pairings in groups.values() for pairing in pairings}
    components = {
        pairing: [delong.components(*_stacked(samples, network, pairing)) for network in networks_of]
        for pairing in unique
    }
    for group, pairings in groups.items():
        strata = [sizes[split] for split in pairings[0].id_splits]
        by_network = [[components[pairing][network] for pairing in pairings] for network in networks_of]
        values = np.array([np.mean([part.aurocs for part in parts], axis=0) for parts in by_network])
        together = [delong.mean_of(parts) for parts in zip(*by_network)]
        of_mean = delong.covariance(together, strata)
        one = of_mean if len(by_network) == 1 else np.mean([delong.covariance(p, strata) for p in by_network], axis=0)
        made[group] = _Group(100 * values, 100**2 * of_mean, 100**2 * one, None)
    return made


def _stacked(samples: Samples, network: int, pairing: Pairing) -> tuple[Matrix, Matrix]:
    """Scores of all detectors (D, n_id) and (D, n_ood)."""
    of_network = [samples.scores[name][network] for name in samples.detectors]
    id_scores = [np.concatenate([scores[split] for split in pairing.id_splits]) for scores in of_network]
    return np.stack(id_scores), np.stack([scores[pairing.ood_split] for scores in of_network])


def _by_bootstrap(samples: Samples, choice: Choice, groups: Groups, sizes: Mapping[str, int]) -> dict[str, _Group]:
    draws = bootstrap.draw(sizes, choice.replicates, choice.seed)
    metric = choice.of_metric
    seeds, names = range(len(samples.networks)), samples.detectors

    def measured(counts: Counts) -> float:
        return 100 * metric.share(counts, choice.ood_share)

    def of_one(name: str, network: int, pairing: Pairing) -> Matrix:
        """The value of the samples as they are, then the replicates (1 + B,)."""
        scores = samples.scores[name][network]
        id_scores = np.concatenate([scores[split] for split in pairing.id_splits])
        wrong = samples.wrong(network, pairing.id_splits) if metric.needs_wrong else None
        ordered = SortedScores(id_scores, scores[pairing.ood_split], wrong)
        replicates = bootstrap.replicate(ordered, pairing, draws, measured) if draws else np.empty(0)
        return np.append(measured(ordered.counts()), replicates)

    unique = list(dict.fromkeys(pairing for pairings in groups.values() for pairing in pairings))
    work = [partial(of_one, name, network, pairing) for pairing in unique for network in seeds for name in names]
    by_pairing = np.array(bootstrap.in_threads(work)).reshape(len(unique), len(seeds), len(names), -1)
    made = {}
    for group, pairings in groups.items():
        found = by_pairing[[unique.index(pairing) for pairing in pairings]].mean(axis=0)
        if not draws:
            nothing = np.full((len(names), len(names)), np.nan)
            made[group] = _Group(found[..., 0], nothing, nothing, None)
            continue
        replicates = found[..., 1:]
        over_networks = replicates.mean(axis=0)
        one = np.mean([np.atleast_2d(np.cov(each)) for each in replicates], axis=0)
        made[group] = _Group(found[..., 0], np.atleast_2d(np.cov(over_networks)), one, over_networks.T)
    return made


def _ties(comparison: Comparison, group: str) -> list[list[str]]:
    """Groups of detectors, best first, of whom no two differ with an adjusted p value below 0.05."""
    order = [value.detector for value in comparison.ranked(group)]
    apart = np.zeros((len(order), len(order)), dtype=bool)
    for each in comparison.differences:
        if each.group == group and each.adjusted < SIGNIFICANT:
            one, two = order.index(each.first), order.index(each.second)
            apart[one, two] = apart[two, one] = True
    return [[order[place] for place in run] for run in cliques(list(range(len(order))), apart)]
