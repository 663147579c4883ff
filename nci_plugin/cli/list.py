"""``nci-ood list``: benchmarks and detectors."""

from __future__ import annotations

from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.openood import methods
from nci_plugin.cli.commands import List
from nci_plugin.config import benchmark_names, detector_names, load_benchmark, load_detector


def run(options: List) -> int:
    if options.openood:
        for name, use in methods.describe().items():
            print(f"{name:22} {use}")
        return 0
    print("benchmarks")
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        groups = [f"{group}: {', '.join(benchmark.data_sets(group)) or 'none'}" for group in ("csid", "near", "far")]
        print(f"  {name:13} {benchmark.num_classes} classes; {'; '.join(groups)}")
    print("\ndetectors")
    for name in detector_names():
        detector = load_detector(name).detector
        print(f"  {name:30} fits on {detector.fits_on.value:15}  {detector.paper}")
    print("\npytorch-ood's detectors that cannot be scored from stored features")
    for name, reason in pytorch_ood.EXCLUDED.items():
        print(f"  {name:30} {reason}")
    return 0
