"""From the error of drawing images to that of drawing networks too: several seeds' networks saw the same images.

A value of network s on images i is taken as mean + image effect + network effect + what is left of both. The image
effect is shared by all networks and does not average out over them. The rest does; its variance comes from the few
networks' own values, so its error has the tails of Student's t. With one network an interval is about that network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Values = NDArray[np.float64]

HALVINGS = 200
"""Of the interval that a p value's logarithm is sought in."""


@dataclass(frozen=True)
class Spread:
    """Variances (J,) of J means over ``count`` networks: what all networks share, and the rest over ``count``."""

    of_images: Values
    of_networks: Values
    count: int

    @property
    def standard_error(self) -> Values:
        return np.sqrt(self.of_images + self.of_networks)

    @property
    def half_width(self) -> Values:
        """Half of the 95 % interval (J,)."""
        return self.standard_error * self._quantile(np.full(len(self.of_images), 0.05))

    def p_values(self, statistics: Values) -> Values:
        """Two-sided, of |t| (J,); NaN stays NaN."""
        if self.count == 1:
            return 2 * ndtr(-statistics)
        low, high = np.full(len(statistics), -700.0), np.zeros(len(statistics))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            larger = self._quantile(np.exp(middle)) >= statistics
            low, high = np.where(larger, middle, low), np.where(larger, high, middle)
        return np.where(np.isnan(statistics), np.nan, np.exp(high))

    def _quantile(self, p: Values) -> Values:
        """|t| whose two-sided p (J,) is given: normal and Student's, weighted by variance (Cochran & Cox 1957)."""
        normal = -ndtri(p / 2)
        if self.count == 1:
            return normal
        total = self.of_images + self.of_networks
        share = np.divide(self.of_networks, total, out=np.zeros_like(total), where=total > 0)
        student = -stdtrit(
            self.count - 1, p / 2
        )  # infinite for the smallest p, where a share of 0 still counts as none
        return (1 - share) * normal + np.multiply(share, student, out=np.zeros_like(share), where=share > 0)


def spread(by_network: Values, variance_of_mean: Values, variance_of_one: Values) -> Spread:
    """Of values (S, J), with the variance over images of their mean over networks (J,) and of one of them (J,).

    The second is a mean over the networks. The covariance between networks follows from both, and is the variance that
    all networks share.
    """
    count = len(by_network)
    if count == 1:
        return Spread(variance_of_mean, np.zeros_like(variance_of_mean), 1)
    shared = (count * variance_of_mean - variance_of_one) / (count - 1)
    return Spread(np.clip(shared, 0, variance_of_mean), by_network.var(axis=0, ddof=1) / count, count)


def deviations(replicates: Values, by_network: Values, variance_of_mean: Values, of: Spread, seed: int) -> Values:
    """How far J means over networks are off in each replicate (B, J), from those over images alone (B, J).

    Networks are drawn by normal weights of their deviations from the mean (a multiplier bootstrap, since draws of three
    have few outcomes), widened to Student's t; the weights are the same for all J.
    """
    from_images = replicates - by_network.mean(axis=0)
    if of.count == 1:
        return from_images
    generator = np.random.default_rng((seed, 1))
    weights = generator.normal(size=(len(replicates), of.count)) / np.sqrt(of.count * (of.count - 1))
    tails = np.sqrt((of.count - 1) / generator.chisquare(of.count - 1, (len(replicates), 1)))
    positive = variance_of_mean > 0
    shared = np.sqrt(np.divide(of.of_images, variance_of_mean, out=np.zeros_like(variance_of_mean), where=positive))
    return shared * from_images + tails * (weights @ (by_network - by_network.mean(axis=0)))
