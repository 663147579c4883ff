"""Peak memory of fitting the detectors that need only statistics, against the number of training samples.

    python scripts/bench/memory.py [--sizes N ...] [--features P] [--classes K]

Each size runs in a process of its own, which streams synthetic batches into ClassStatistics and fits.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from measuring import parser, peak_mb, publish

BATCH = 1000
DETECTORS = ("nci", "pscore", "feature_norm", "neco")


def fit(samples: int, options: argparse.Namespace) -> float:
    """Fit on ``samples`` random features; returns the peak resident memory of this process in MB."""
    import torch

    from nci_plugin.detectors import registry
    from nci_plugin.features.bank import FitsOn
    from nci_plugin.features.statistics import ClassStatistics
    from nci_plugin.networks.head import LinearHead

    classes, width = options.classes, options.features
    generator = torch.Generator().manual_seed(options.seed)
    head = LinearHead(torch.randn(classes, width, generator=generator), torch.zeros(classes))
    statistics = ClassStatistics(classes, width)
    for start in range(0, samples, BATCH):
        count = min(BATCH, samples - start)
        features = torch.randn(count, width, generator=generator).relu_()
        statistics.update(features, torch.randint(classes, (count,), generator=generator))
    for name in DETECTORS:
        detector = registry.create(name)
        detector.fit(statistics if detector.fits_on is FitsOn.STATISTICS else None, head)
    return peak_mb()


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--sizes", nargs="+", type=int, default=[20_000, 200_000], metavar="N", help="(20000 200000)")
    made.add_argument("--features", type=int, default=2048, metavar="P", help="their width (2048)")
    made.add_argument("--classes", type=int, default=1000, metavar="K", help="classes (1000)")
    made.add_argument("--one", type=int, metavar="N", help="only print the peak of this process for one size")
    options = made.parse_args(arguments)
    if options.one is not None:
        print(fit(options.one, options))
        return
    same = [f"--{name}={getattr(options, name)}" for name in ("features", "classes", "seed")]
    peaks = {}
    for samples in options.sizes:
        command = [sys.executable, __file__, f"--one={samples}", *same]
        peaks[samples] = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    smallest, largest = min(peaks), max(peaks)
    publish(
        {
            "peak_MB": peaks,
            "difference_MB": peaks[largest] - peaks[smallest],
            f"peak_of_{largest}_over_{smallest}": peaks[largest] / peaks[smallest],
            f"features_of_{largest}_MB": 4 * options.features * largest / 2**20,
            "detectors": DETECTORS,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
