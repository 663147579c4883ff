"""Peak memory of fitting the detectors that need only statistics, against the number of training samples.

    python scripts/bench/memory.py

Each size runs in a process of its own, which streams synthetic batches into ClassStatistics and fits.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

SIZES, FEATURES, CLASSES, BATCH = (20_000, 200_000), 2048, 1000, 1000
DETECTORS = ("nci", "pscore", "feature_norm", "neco")


def fit(samples: int) -> float:
    """Fit on ``samples`` random features; returns the peak resident memory of this process in MB."""
    import torch

    from nci_plugin.detectors import registry
    from nci_plugin.detectors.base import FitsOn
    from nci_plugin.head import LinearHead
    from nci_plugin.statistics import ClassStatistics

    generator = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(CLASSES, FEATURES, generator=generator), torch.zeros(CLASSES))
    statistics = ClassStatistics(CLASSES, FEATURES)
    for _ in range(samples // BATCH):
        features = torch.randn(BATCH, FEATURES, generator=generator).relu_()
        statistics.update(features, torch.randint(CLASSES, (BATCH,), generator=generator))
    for name in DETECTORS:
        detector = registry.create(name)
        detector.fit(statistics if detector.fits_on is FitsOn.STATISTICS else None, head)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)  # kilobytes, but bytes on macOS


def main() -> None:
    if len(sys.argv) == 2:
        print(fit(int(sys.argv[1])))
        return
    peaks = {
        samples: float(subprocess.run([sys.executable, __file__, str(samples)], capture_output=True, check=True).stdout)
        for samples in SIZES
    }
    smallest, largest = (peaks[size] for size in SIZES)
    print(json.dumps({"peak_MB": peaks, "difference_MB": largest - smallest, "detectors": DETECTORS}))


if __name__ == "__main__":
    main()
