"""``nci-ood list``: benchmarks and detectors."""

from __future__ import annotations

import json
from typing import Any

from nci_plugin.adapters import pytorch_ood
from nci_plugin.adapters.openood import methods
from nci_plugin.cli.tool_commands import List
from nci_plugin.config import benchmark_names, detector_names, load_benchmark, load_detector
from nci_plugin.features.bank import FitsOn
from nci_plugin.report.terminal import folded, with_prose

TITLES = {
    "benchmarks": "benchmarks: name, classes, data sets",
    "detectors": "detectors: name, display name, what they need of the training set, authors and year",
    "other_packages": "detectors of other packages",
    "pytorch_ood": "detectors of pytorch-ood, with venue and year",
    "pytorch_ood_excluded": "detectors of pytorch-ood that cannot be scored from stored features",
    "openood": "methods of OpenOOD: name, display name, how each is used",
}
NEEDS = {
    FitsOn.NOTHING: "no fit",
    FitsOn.STATISTICS: "statistics",
    FitsOn.UNIT_STATISTICS: "statistics",
    FitsOn.BANK: "features",
}
"""What a detector must see of the training set: its class statistics, or all of its features."""

Entry = dict[str, Any]


def run(options: List) -> int:
    groups = {"openood": _openood()} if options.openood else {"benchmarks": _benchmarks(), **_detectors()}
    if options.json:
        print(json.dumps(groups, indent=2))
        return 0
    for group, entries in groups.items():
        if entries:
            rows = [_row(entry) for entry in entries]
            print(f"{folded(TITLES[group])}\n{with_prose(rows, left=len(rows[0]) - 1)}\n")
    return 0


def _row(entry: Entry) -> list[str]:
    """One line about an entry, its name first and indented."""
    name, *cells = entry.values()
    if "sets" in entry:
        sets = "; ".join(f"{group}: {', '.join(names) or 'none'}" for group, names in entry["sets"].items())
        cells = [f"{entry['classes']} classes", sets]
    elif "paper" in entry:
        by = entry["authors"].removeprefix("nci_plugin, ") or entry["venue"]
        cells = [entry["display"], entry["needs"], f"{by} {entry['year'] or ''}".strip()]
    return [f"  {name}", *cells]


def _benchmarks() -> list[Entry]:
    entries = []
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        sets = {group: benchmark.data_sets(group) for group in ("csid", "near", "far")}
        entries.append({"name": name, "classes": benchmark.num_classes, "sets": sets})
    return entries


def _detectors() -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {"detectors": [], "other_packages": [], "pytorch_ood": []}
    for name in detector_names():
        detector = load_detector(name).detector
        of_pytorch_ood = name.startswith(pytorch_ood.PREFIX)
        ours = type(detector).__module__.startswith("nci_plugin.detectors.")
        paper = detector.paper
        groups["pytorch_ood" if of_pytorch_ood else "detectors" if ours else "other_packages"].append(
            {
                "name": name,
                "display": detector.display.partition(" (")[0] if of_pytorch_ood else detector.display,
                "needs": NEEDS[detector.fits_on],
                "authors": paper.authors,
                "year": paper.year,
                "venue": paper.venue,
                "paper": " ".join(paper.title.split()),
                "url": paper.url,
            }
        )
    groups["pytorch_ood_excluded"] = [{"name": name, "reason": reason} for name, reason in pytorch_ood.EXCLUDED.items()]
    return groups


def _openood() -> list[Entry]:
    return [
        {"name": name, "display": methods.display(name).partition(" (")[0], "use": use}
        for name, use in methods.describe().items()
    ]
