"""Memory and time of collapse metrics on streamed features: K = 1000, P = 2048, N = 1,281,167 unless told otherwise.

    python scripts/bench/collapse.py [--samples N] [--classes K] [--features P]

Memory: peak resident memory beyond torch's own, which is measured after a first small product. Time: of all updates
and of `measure`, against the matrix products that they must do, X^T X of every batch in float64, timed in turn on the
same batches. Making the synthetic features is not counted.
"""

from __future__ import annotations

import time

import torch
from measuring import parser, peak_mb, publish

from nci_plugin.collapse import measure
from nci_plugin.features.statistics import BUFFER_ROWS, ClassStatistics
from nci_plugin.networks.head import LinearHead


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--samples", type=int, default=1_281_167, metavar="N")
    made.add_argument("--classes", type=int, default=1000, metavar="K")
    made.add_argument("--features", type=int, default=2048, metavar="P")
    options = made.parse_args(arguments)
    small = torch.randn(64, 64)
    torch.linalg.svd(small @ small.T)
    own = peak_mb()

    generator = torch.Generator().manual_seed(options.seed)
    head = LinearHead(torch.randn(options.classes, options.features, generator=generator), torch.zeros(options.classes))
    centres = torch.rand(options.classes, options.features, generator=generator)
    statistics = ClassStatistics(options.classes, options.features)
    product = torch.zeros(options.features, options.features, dtype=torch.float64)
    seconds = {"updates": 0.0, "products": 0.0}
    for start in range(0, options.samples, BUFFER_ROWS):
        count = min(BUFFER_ROWS, options.samples - start)
        labels = torch.randint(options.classes, (count,), generator=generator)
        features = torch.randn(count, options.features, generator=generator).add_(centres[labels]).relu_()
        started = time.perf_counter()
        statistics.update(features, labels)
        seconds["updates"] += time.perf_counter() - started
        rows = features.double()
        started = time.perf_counter()
        product.addmm_(rows.T, rows)
        seconds["products"] += time.perf_counter() - started
        del rows, features
    started = time.perf_counter()
    metrics = measure(statistics, head)
    seconds["measure"] = time.perf_counter() - started
    report = {
        "shape": [options.samples, options.features, options.classes],
        "sizes": {"threads": torch.get_num_threads()},
        "memory_beyond_torch_MB": round(peak_mb() - own),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "time_over_products": round((seconds["updates"] + seconds["measure"]) / seconds["products"], 2),
        "metrics": {"nc1_quotient": metrics.nc1_quotient},
    }
    publish(report, options.json)


if __name__ == "__main__":
    main()
