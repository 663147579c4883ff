"""Ways to choose NCI's alpha from ID data alone, by name: each takes a Network and returns alpha >= 0.

Four families: the two terms given one spread on the ID validation split; a likelihood ratio against samples without
evidence; the best AUROC of that split against pseudo-OOD features made from it; and how far the classes have
collapsed. None reads an OOD split.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from stored import Array, Network

from nci_plugin.detectors import registry
from nci_plugin.detectors.nci import AUTO_SHARES, NCIAuto
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.metrics import auroc

GRID = np.logspace(-5, 1, 49)
"""The values of alpha, beside 0, that the oracle chooses from."""


def _spread(of: Callable[[Array], float]) -> Callable[[Network], float]:
    return lambda network: of(network.rows["id/val"].p) / of(network.rows["id/val"].n)


def _quantile_range(values: Array, tail: float) -> float:
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(high - low)


def _to_no_evidence(network: Network) -> float:
    """A likelihood ratio against samples with pScore 0 and a norm one deviation lower."""
    rows = network.rows["id/val"]
    return float(rows.p.var() / rows.p.mean() / rows.n.std())


def _within_share(network: Network) -> float:
    """Standard deviations, times the share of the training variance within classes."""
    train = network.rows["id/train"]
    means = np.stack([train.h[train.y == k].mean(axis=0) for k in np.unique(train.y)])
    within = np.square(train.h - means[np.unique(train.y, return_inverse=True)[1]]).sum()
    return float(within / np.square(train.h - train.h.mean(axis=0)).sum() * _spread(np.std)(network))


# -------------------------------------------------------------------- pseudo-OOD features


def _midpoints(network: Network) -> float:
    """The rule of `NCIAuto`: halfway between validation features that are predicted as different classes."""
    train = network.splits["id/train"]
    statistics = ClassStatistics(network.head.num_classes, network.head.num_features)
    detector = registry.create("nci_auto")
    assert isinstance(detector, NCIAuto)
    detector.fit(statistics.update(train.features, train.labels), network.head, network.splits["id/val"])
    return detector.alpha_


def _shuffled(network: Network, generator: np.random.Generator) -> Array:
    """Each coordinate of another sample."""
    return generator.permuted(network.rows["id/val"].h, axis=0)


def _shrunk(network: Network, generator: np.random.Generator) -> Array:
    """Halfway to mu_G."""
    return (network.rows["id/val"].h + network.rows["id/train"].h.mean(axis=0)) / 2


def _gaussian(in_span: bool) -> Callable[[Network, np.random.Generator], Array]:
    """Around mu_G, in the span of the centred class means or orthogonal to it, as long as validation features."""

    def made(network: Network, generator: np.random.Generator) -> Array:
        train, centred = network.rows["id/train"], network.rows["id/val"].h - network.rows["id/train"].h.mean(axis=0)
        mean = train.h.mean(axis=0)
        offsets = np.stack([train.h[train.y == k].mean(axis=0) for k in np.unique(train.y)]) - mean
        basis = np.linalg.svd(offsets, full_matrices=False)[2][: len(offsets) - 1]
        noise = generator.normal(size=centred.shape)
        inside = noise @ basis.T @ basis
        noise = inside if in_span else noise - inside
        features = mean + noise * (np.linalg.norm(centred, axis=1) / np.linalg.norm(noise, axis=1))[:, None]
        return np.maximum(features, 0) if (train.h >= 0).all() else features

    return made


def _against(*makers: Callable[[Network, np.random.Generator], Array]) -> Callable[[Network], float]:
    def rule(network: Network) -> float:
        mean, rows = network.rows["id/train"].h.mean(axis=0), network.rows["id/val"]
        made = [maker(network, np.random.default_rng(0)) for maker in makers]
        pairs = [(network.p_score(h, network.logits(h), mean), np.abs(h).sum(axis=1)) for h in made]
        alphas = [share * float(rows.p.std() / rows.n.std()) for share in AUTO_SHARES]
        areas = [np.mean([auroc(rows.p + a * rows.n, p + a * n) for p, n in pairs]) for a in alphas]
        return alphas[int(np.argmax(areas))]

    return rule


RULES: dict[str, Callable[[Network], float]] = {
    "s_p / s_n": _spread(lambda values: float(values.std())),
    "interquartile ranges": _spread(lambda values: _quantile_range(values, 0.25)),
    "5-95 % ranges": _spread(lambda values: _quantile_range(values, 0.05)),
    "means": _spread(lambda values: float(values.mean())),
    "s_p / s_n x within share": _within_share,
    "s_p^2 / (m_p s_n)": _to_no_evidence,
    "midpoints": _midpoints,
    "shuffled": _against(_shuffled),
    "shrunk": _against(_shrunk),
    "Gaussian, span": _against(_gaussian(True)),
    "Gaussian, null space": _against(_gaussian(False)),
    "shuffled + null": _against(_shuffled, _gaussian(False)),
}
