"""Time of scoring NCI on stored features against the textbook formula written out in torch, and against a plain copy.

    python scripts/bench/scoring.py [--samples N] [--features P] [--classes K] [--rounds N]

Both sides run in turn in one process; ratios of medians are printed. The textbook is given the predicted class for
nothing; NCI finds it in the logits itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import in_turn, parser, publish

from nci_plugin.detectors import NCI
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.networks.head import LinearHead

BATCH, ALPHA = 200, 1e-3


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=20_000, metavar="N", help="features to score (20000)")
    options.add_argument("--features", type=int, default=2048, metavar="P", help="their width (2048)")
    options.add_argument("--classes", type=int, default=1000, metavar="K", help="classes (1000)")
    options.add_argument("--rounds", type=int, default=9, metavar="N", help="timed rounds after one that warms up (9)")
    asked = options.parse_args(arguments)
    samples, width, classes = asked.samples, asked.features, asked.classes
    generator = torch.Generator().manual_seed(asked.seed)
    features = torch.randn(samples, width, generator=generator).relu_()
    head = LinearHead(torch.randn(classes, width, generator=generator) / width**0.5, torch.zeros(classes))
    logits, weight = head.logits(features), head.weight
    predicted = logits.argmax(dim=1)
    labels = torch.randint(classes, (samples,), generator=generator)
    nci = NCI(ALPHA).fit(ClassStatistics(classes, width).update(features, labels), head)
    mean = nci.mean_.float()

    def textbook(h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        proximity = torch.sum(weight[c] * (h - mean), dim=1) / torch.norm(h - mean, dim=1)
        return proximity + ALPHA * torch.norm(h, p=1, dim=1)

    def in_batches(score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], second: torch.Tensor) -> None:
        for h, other in zip(features.split(BATCH), second.split(BATCH)):
            score(h, other)

    difference = (textbook(features, predicted) - nci.score(features, logits)).abs().max().item()
    seconds = in_turn(
        {
            "textbook": lambda: textbook(features, predicted),
            "nci": lambda: nci.score(features, logits),
            "copy": features.clone,
            "textbook_in_batches": lambda: in_batches(textbook, predicted),
            "nci_in_batches": lambda: in_batches(nci.score, logits),
        },
        asked.rounds,
    )
    read = 4 * (features.numel() + logits.numel()) / 1e9 / seconds["nci"]  # bytes of float32
    copied = 4 * 2 * features.numel() / 1e9 / seconds["copy"]
    publish(
        {
            "shape": [samples, width, classes],
            "sizes": {"threads": torch.get_num_threads(), "batch": BATCH},
            "largest_difference": difference,
            "textbook_over_nci": seconds["textbook"] / seconds["nci"],
            f"textbook_over_nci_in_batches_of_{BATCH}": seconds["textbook_in_batches"] / seconds["nci_in_batches"],
            "nci_reads_GB_per_s": read,
            "copy_GB_per_s": copied,
            "nci_reads_over_copy": read / copied,
        },
        asked.json,
    )


if __name__ == "__main__":
    main()
