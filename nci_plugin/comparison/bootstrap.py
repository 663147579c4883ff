"""Stratified paired bootstrap: every split is drawn anew, the same draws for all detectors and networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nci_plugin.machine import usable_cores
from nci_plugin.metrics.counts import Counts, SortedScores

LEAST_REPLICATES = 1000

Draws = Mapping[str, NDArray[np.uint8]]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pairing:
    """ID samples, of some splits one after the other, against those of one OOD split."""

    id_splits: tuple[str, ...]
    ood_split: str


def draw(sizes: Mapping[str, int], replicates: int, seed: int) -> Draws:
    """How often each sample of each split was drawn, (B, n): n draws with replacement from its n samples.

    A split's draws depend on ``seed`` and its place alone.
    """
    generators = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(len(sizes))]
    drawn = {}
    for (split, size), generator in zip(sizes.items(), generators):
        counts = np.empty((replicates, size), dtype=np.uint8)
        for row in counts:
            # 255 draws of one sample: impossible among so few, chance below 1e-500 among more.
            row[:] = np.minimum(np.bincount(generator.integers(0, size, size), minlength=size), 255)
        drawn[split] = counts
    return drawn


def replicate(scores: SortedScores, pairing: Pairing, draws: Draws, metric: Callable[[Counts], float]) -> Values:
    """The metric (B,) of one detector's scores under each draw."""
    of_id, of_ood = [draws[split] for split in pairing.id_splits], draws[pairing.ood_split]
    # One at a time: what a replicate needs stays in a processor's cache, and several at once were slower.
    return np.array(
        [
            metric(scores.counts(parts[0] if len(parts) == 1 else np.concatenate(parts), ood_weights))
            for *parts, ood_weights in zip(*of_id, of_ood)
        ]
    )


def in_threads(work: Sequence[Callable[[], Values]]) -> list[Values]:
    """The results of each piece of work, on as many processors as this process may use."""
    # glibc gives memory above a threshold back at once, and every page of a replicate's next array is then asked for
    # anew: 400 faults a replicate, which take longer than its arithmetic. Freeing a large block raises the threshold.
    np.empty(2**24, dtype=np.uint8)
    with ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        return list(pool.map(lambda each: each(), work))
