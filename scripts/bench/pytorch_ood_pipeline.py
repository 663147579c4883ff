"""All detectors from one pass, against pytorch-ood's Benchmark with its cache on: the same detectors, network, images.

    python scripts/bench/pytorch_ood_pipeline.py [--workload NAME] [--detectors CLASS ...] [--rounds N]

Three sides, in turn in one process, from image files to AUROC on each OOD set; no hyper-parameter is searched:

ours      `extract` (one pass over training, ID test and OOD images), then every detector of `evaluate_bank`
theirs    as pytorch-ood's documentation writes it: ``detector.fit(loader)`` for each detector that fits, then one
          ``Benchmark.evaluate(detectors, cache=True)``
shared    the fastest that its interface allows: the training images are passed once by its ``extract_features`` and
          every detector is fitted by ``fit_features`` or ``fit_logits``; then the same ``evaluate``

Its Benchmark passes the ID test images once for every OOD set, and images once for logits and once for features; the
number of images that went through the network is reported for each side. AUROC is compared detector by detector. A
detector that cannot be used on this network is left out of all sides and named.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import counted, in_turn, parser, publish
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from workload import Work, add_options, opened

from nci_plugin.adapters import pytorch_ood as adapter
from nci_plugin.api import resolve_detectors
from nci_plugin.benchmarks.benchmark import FAR, NEAR, OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.evaluation.evaluate import Evaluation, evaluate_bank, training_needed
from nci_plugin.evaluation.search import DetectorSetup
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions
from nci_plugin.networks.head import LinearHead

OWN = {"MaxSoftmax": "msp", "MaxLogit": "mls", "EnergyBased": "ebo", "NCI": "nci", "KNN": "knn"}
"""Classes of pytorch-ood that are detectors of this package; the others run through its adapter."""

DETECTORS = [*OWN, "Entropy", "GEN", "KLMatching", "DICE", "ViM", "Mahalanobis", "RMD", "fDBD", "NNGuide"]

Table = dict[tuple[str, str], float]
"""AUROC in percent by detector class and OOD set."""


def our_setups(classes: Sequence[str]) -> list[DetectorSetup]:
    """The same hyper-parameters as on the other side, none searched."""
    setups = []
    for name in classes:
        (setup,) = resolve_detectors([OWN.get(name, f"{adapter.PREFIX}{name.lower()}")])
        assert isinstance(setup, DetectorSetup)
        entry = adapter.ENTRIES.get(name) if name in OWN else None
        theirs = {key.lower(): value for key, value in entry.defaults.items()} if entry is not None else {}
        own = {key: theirs[key.lower()] for key in setup.detector.hyperparameter_names() if key.lower() in theirs}
        setup.detector.set_hyperparameters(**own)
        setups.append(DetectorSetup(setup.detector))
    return setups


def ours(work: Work, benchmark: Benchmark, classes: Sequence[str], options: argparse.Namespace) -> Table:
    evaluation = evaluated(work, benchmark, classes, options)
    names = {setup.name: name for setup, name in zip(our_setups(classes), classes)}
    sets = ood_sets(benchmark).values()
    return {(names[row.detector], row.dataset): row.auroc for row in evaluation.results if row.dataset in sets}


def evaluated(work: Work, benchmark: Benchmark, classes: Sequence[str], options: argparse.Namespace) -> Evaluation:
    setups = our_setups(classes)
    bank = extract(
        work.network,
        benchmark,
        training_needed(setups),
        ExtractionOptions(options.device, options.batch_size, options.workers, progress=False),
    )
    return evaluate_bank(bank, benchmark, setups)


def ood_sets(benchmark: Benchmark) -> dict[str, str]:
    """Splits with OOD images to the names of their data sets."""
    return {f"{group}/{name}": name for group in (NEAR, FAR) for name in benchmark.data_sets(group)}


def theirs(
    work: Work, benchmark: Benchmark, classes: Sequence[str], options: argparse.Namespace, shared: bool
) -> Table:
    from pytorch_ood.utils import extract_features

    splits = open_splits(benchmark)
    loading = {"batch_size": options.batch_size, "num_workers": options.workers}
    loader: DataLoader[Any] = DataLoader(splits[TRAIN], **loading)
    network = work.network.to(options.device)
    encoder = copy.deepcopy(network)  # with the hook that counts the network's passes
    encoder.fc = nn.Identity()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detectors = [their_detector(name, network, encoder).to(options.device) for name in classes]
        if shared:
            features, labels = extract_features(loader, encoder, options.device)
            logits = network.fc(features.to(options.device)).cpu()
        for detector in detectors:
            if not detector.requires_fit:
                continue
            if not shared:
                detector.fit(loader)
            elif hasattr(detector, "fit_logits"):
                detector.fit_logits(logits, labels)
            else:
                detector.fit_features(features, labels)
        bench = their_benchmark(splits, ood_sets(benchmark))
        rows = bench.evaluate(detectors, loader_kwargs=loading, device=options.device, cache=True)
    return {(row["Detector"], row["Dataset"]): 100 * row["AUROC"] for row in rows}


def their_detector(name: str, network: nn.Module, encoder: nn.Module) -> Any:
    """A detector with the arguments that the adapter gives it, and with the network to pass images through."""
    import pytorch_ood.detector

    entry = adapter.ENTRIES.get(name)
    arguments: dict[str, Any] = {"model": network}  # those without an entry are on logits
    if entry is not None:
        head = LinearHead.from_linear(network.fc)  # type: ignore[arg-type]
        arguments = {**entry.arguments(head), **entry.defaults}
    passing = {"model": network, "encoder": encoder}
    arguments.update({key: passing[key] for key in passing.keys() & arguments})
    return getattr(pytorch_ood.detector, name)(**arguments)


def their_benchmark(splits: dict[str, Any], sets: dict[str, str]) -> Any:
    from pytorch_ood.benchmark import Benchmark as TheirBenchmark

    class OfSplits(TheirBenchmark):  # type: ignore[misc]
        """As the library's own benchmarks are written."""

        ood_names = list(sets.values())

        def train_set(self) -> Dataset:
            return splits[TRAIN]

        def test_sets(self, known: bool = True, unknown: bool = True) -> list[Dataset]:
            id_set, ood = splits[TEST], [splits[split] for split in sets]
            if known and unknown:
                return [ConcatDataset([id_set, each]) for each in ood]
            return [id_set] if known else ood

    return OfSplits()


def measure(work: Work, benchmark: Benchmark, options: argparse.Namespace) -> dict[str, Any]:
    left_out = evaluated(work, benchmark, options.detectors, options).failures
    setups = zip(options.detectors, our_setups(options.detectors))
    classes = [name for name, setup in setups if setup.name not in left_out]
    tables: dict[str, Table] = {}
    images: dict[str, int] = {}

    def side(name: str, run: Callable[[], Table]) -> Callable[[], None]:
        def counting() -> None:
            with counted(work.network) as passes:
                tables[name] = run()
            images[name] = sum(passes)

        return counting

    sides = {
        "ours": side("ours", lambda: ours(work, benchmark, classes, options)),
        "theirs": side("theirs", lambda: theirs(work, benchmark, classes, options, shared=False)),
        "shared": side("shared", lambda: theirs(work, benchmark, classes, options, shared=True)),
    }
    seconds = in_turn(sides, options.rounds)
    differences = {name: 0.0 for name in classes}
    for (name, data_set), value in tables["ours"].items():
        here = (abs(value - tables[each][name, data_set]) for each in ("theirs", "shared"))
        differences[name] = max(differences[name], *here)
    return {
        "detectors": classes,
        "left_out": left_out,
        "images": {name: len(split) for name, split in open_splits(benchmark).items()},
        "images_passed": images,
        "detectors_compared": len(classes),
        **{f"{name}_s": value for name, value in seconds.items()},
        "theirs_over_ours": seconds["theirs"] / seconds["ours"],
        "shared_over_ours": seconds["shared"] / seconds["ours"],
        "images_passed_by_theirs_over_ours": images["theirs"] / images["ours"],
        "images_passed_by_shared_over_ours": images["shared"] / images["ours"],
        "largest_auroc_difference": max(differences.values()),
        "auroc_differences": differences,
    }


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made)
    made.add_argument("--detectors", nargs="+", default=DETECTORS, metavar="CLASS", help="classes of pytorch-ood")
    made.add_argument("--rounds", type=int, default=1, metavar="N", help="timed rounds after one that warms up (1)")
    options = made.parse_args(arguments)
    with opened(options) as work:
        whole = work.benchmark
        searched_on = (VALIDATION, OOD_VALIDATION)  # nothing is searched
        splits = {name: source for name, source in whole.splits.items() if name not in searched_on}
        benchmark = Benchmark(whole.name, whole.num_classes, splits, whole.preprocessing)
        publish(measure(work, benchmark, options), options.json)


if __name__ == "__main__":
    main()
