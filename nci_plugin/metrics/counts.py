"""ID and OOD samples in the order of their scores, and how many lie below each score under any weights.

A metric of `metrics.columns` reads these counts alone. A bootstrap replicate is the same samples with other weights,
how often each was drawn, so it costs a few passes over scores that were sorted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Weights = NDArray[np.uint8]
Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Counts:
    """How many samples lie below each of G distinct scores.

    ``id_below``, ``ood_below`` and ``wrong_below`` are (G + 1,) and end with how many there are in all: entry g counts
    scores smaller than ``scores[g]``. ``wrong_below`` counts ID samples whose class was predicted wrongly, and is None
    where that is not known. ``scores`` (G,) ascend; larger = ID.
    """

    scores: Floats
    id_below: Numbers
    ood_below: Numbers
    wrong_below: Numbers | None = None

    @property
    def n_id(self) -> int:
        return int(self.id_below[-1])

    @property
    def n_ood(self) -> int:
        return int(self.ood_below[-1])


class SortedScores:
    """The scores of ID (n_id,) and OOD samples (n_ood,), sorted once; ``wrong`` (n_id,) marks wrong predictions."""

    def __init__(self, id_scores: Floats, ood_scores: Floats, wrong: NDArray[np.bool_] | None = None) -> None:
        self.scores = np.unique(np.concatenate([id_scores, ood_scores]))
        self._id = _Below(id_scores, self.scores)
        self._ood = _Below(ood_scores, self.scores)
        self._wrong = None if wrong is None else wrong[self._id.order]

    def counts(self, id_weights: Weights | None = None, ood_weights: Weights | None = None) -> Counts:
        """Counts where sample i counts ``weights[i]`` times, once if None; (n_id,) and (n_ood,).

        Weights must sum to the number of their samples.
        """
        id_sorted, ood_sorted = self._id.sorted(id_weights), self._ood.sorted(ood_weights)
        wrong = None if self._wrong is None else self._id.cumulative(id_sorted * self._wrong)
        return Counts(self.scores, self._id.cumulative(id_sorted), self._ood.cumulative(ood_sorted), wrong)


class _Below:
    """How many of some samples lie below each distinct score."""

    def __init__(self, samples: Floats, scores: Floats) -> None:
        self.order = np.argsort(samples, kind="stable")
        first = np.searchsorted(samples[self.order], scores, side="left")
        self._first = np.append(first, len(samples))

    def sorted(self, weights: Weights | None) -> Weights:
        return np.ones(len(self.order), dtype=np.uint8) if weights is None else weights[self.order]

    def cumulative(self, weights: Weights) -> Numbers:
        sums = np.zeros(len(weights) + 1, dtype=np.int32)
        np.cumsum(weights, dtype=np.int32, out=sums[1:])
        return sums[self._first]
