"""From the error of drawing images to that of drawing networks too: several seeds' networks saw the same images.

A value of network s on images i is taken as mean + network effect + image effect + what is left of both. Every network
is tested on the same images, so the image effect does not average out over networks; the network effect does. Its
variance comes from few networks, and an interval widens accordingly: Student's t with Satterthwaite's degrees of
freedom, infinite for one network, whose interval is about that network alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Of J means over S networks: ``shrink`` (J,) is how far the networks' deviations are due to the networks, 0..1.

    ``standard_error`` (J,) is of the mean, with both images and networks drawn anew; ``degrees`` (J,) of freedom.
    """

    standard_error: Values
    degrees: Values
    shrink: Values

    @property
    def half_width(self) -> Values:
        """Half of the 95 % interval (J,) of Student's t."""
        finite, degrees = self._degrees
        return self.standard_error * np.where(finite, t.ppf(0.975, degrees), norm.ppf(0.975))

    def p_values(self, statistics: Values) -> Values:
        """Two-sided, of |t| (J,)."""
        finite, degrees = self._degrees
        return 2 * np.where(finite, t.sf(statistics, degrees), norm.sf(statistics))

    @property
    def _degrees(self) -> tuple[Values, Values]:
        """Where they are finite, and a number in the place of those that are not: older SciPy's t has no infinity."""
        finite = np.isfinite(self.degrees)
        return finite, np.where(finite, self.degrees, 1.0)


def spread(by_network: Values, variance_of_mean: Values, variance_of_one: Values) -> Spread:
    """Of values (S, J), with the variance over images of their mean over networks (J,) and of one of them (J,).

    The second is a mean over the networks. What of the networks' sample variance images explain is taken from it.
    """
    count = len(by_network)
    if count == 1:
        infinite = np.full(by_network.shape[1], np.inf)
        return Spread(np.sqrt(variance_of_mean), infinite, np.zeros_like(infinite))
    observed = by_network.var(axis=0, ddof=1)
    left = np.maximum(variance_of_one - variance_of_mean, 0) * count / (count - 1)  # network x image
    left = np.minimum(left, count * variance_of_mean)  # more would make the image effect's variance negative
    of_networks = np.maximum(observed - left, 0)
    total = variance_of_mean + of_networks / count
    # The uncertain part is all of the sample variance, whatever share of it images explain.
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = np.where(observed > 0, (count - 1) * (total * count / observed) ** 2, np.inf)
        shrink = np.where(observed > 0, np.sqrt(of_networks / observed), 0.0)
    return Spread(np.sqrt(total), degrees, shrink)


def hierarchical(replicates: Values, by_network: Values, shrink: Values, seed: int) -> Values:
    """Replicates (B, J) of means over networks, with networks drawn anew beside the images of ``replicates`` (B, J).

    S - 1 of the S networks are drawn with replacement, which gives their mean's variance without bias (Rao & Wu 1988),
    the same for all J; their deviations count as far as networks explain them.
    """
    count = len(by_network)
    if count == 1:
        return replicates
    drawn = np.random.default_rng((seed, 1)).integers(0, count, (len(replicates), count - 1))
    deviations = by_network - by_network.mean(axis=0)
    return replicates + shrink * deviations[drawn].mean(axis=1)


def widened(deviations: Values, degrees: Values, seed: int) -> Values:
    """Deviations (B, J) of replicates from their estimate with the tails of Student's t, the same draw for all J."""
    if np.isinf(degrees).all():
        return deviations
    quantiles = np.random.default_rng((seed, 2)).uniform(size=len(deviations))
    factors = np.ones_like(deviations)
    for column in np.flatnonzero(np.isfinite(degrees)):
        factors[:, column] = np.sqrt(degrees[column] / chi2.ppf(quantiles, degrees[column]))
    return deviations * factors
