"""Time of scoring NCI on stored features against the textbook formula written out in torch, and against a plain copy.

    python scripts/bench/scoring.py

Both sides run in turn in one process; ratios of medians are printed. The textbook is given the predicted class for
nothing; NCI finds it in the logits itself.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import torch

from nci_plugin.detectors import NCI
from nci_plugin.head import LinearHead
from nci_plugin.statistics import ClassStatistics

SAMPLES, FEATURES, CLASSES, BATCH, ROUNDS, ALPHA = 20_000, 2048, 1000, 200, 9, 1e-3


def medians(*sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side, measured in turn."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(ROUNDS + 1):
        for side, times in zip(sides, seconds):
            started = time.perf_counter()
            side()
            times.append(time.perf_counter() - started)
    return [statistics.median(times[1:]) for times in seconds]  # the first round warms up


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(SAMPLES, FEATURES, generator=generator).relu_()
    head = LinearHead(torch.randn(CLASSES, FEATURES, generator=generator) / 45, torch.zeros(CLASSES))
    logits, weight = head.logits(features), head.weight
    predicted = logits.argmax(dim=1)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    nci = NCI(ALPHA).fit(ClassStatistics(CLASSES, FEATURES).update(features, labels), head)
    mean = nci.mean_.float()

    def textbook(h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        proximity = torch.sum(weight[c] * (h - mean), dim=1) / torch.norm(h - mean, dim=1)
        return proximity + ALPHA * torch.norm(h, p=1, dim=1)

    def in_batches(score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], second: torch.Tensor) -> None:
        for h, other in zip(features.split(BATCH), second.split(BATCH)):
            score(h, other)

    difference = (textbook(features, predicted) - nci.score(features, logits)).abs().max().item()
    whole = medians(lambda: textbook(features, predicted), lambda: nci.score(features, logits), features.clone)
    batches = medians(lambda: in_batches(textbook, predicted), lambda: in_batches(nci.score, logits))
    read = (features.nbytes + logits.nbytes) / 1e9
    report = {
        "shape": [SAMPLES, FEATURES, CLASSES],
        "threads": torch.get_num_threads(),
        "largest_difference": difference,
        "textbook_over_nci": whole[0] / whole[1],
        f"textbook_over_nci_in_batches_of_{BATCH}": batches[0] / batches[1],
        "nci_reads_GB_per_s": read / whole[1],
        "copy_GB_per_s": 2 * features.nbytes / 1e9 / whole[2],
    }
    print(json.dumps({key: round(value, 7) if isinstance(value, float) else value for key, value in report.items()}))


if __name__ == "__main__":
    main()
