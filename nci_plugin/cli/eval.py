"""``nci-ood eval``: score detectors on a benchmark, for one network or for the seeds s0, s1, s2, ..."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nci_plugin.benchmarks.benchmark import Benchmark
    from nci_plugin.results import Result

RESULTS = Path("results")


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "eval",
        help="evaluate detectors on a benchmark",
        description="Pass every image of a benchmark through a network once, then score every detector.",
    )
    parser.add_argument("benchmark", metavar="BENCHMARK", help="a name (see 'nci-ood list') or a YAML file")
    parser.add_argument("--detectors", nargs="+", default=["all"], metavar="NAME", help="names or YAML files (all)")
    parser.add_argument("--net", metavar="FACTORY", help="FILE.py:FACTORY or package.module:factory")
    parser.add_argument(
        "--ckpt-path",
        type=Path,
        metavar="PATH",
        help="a checkpoint, or a directory with s0/best.ckpt, s1/best.ckpt ...",
    )
    parser.add_argument("--head", metavar="LAYER", help="name of the last linear layer, if it is not found by itself")
    parser.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="images and lists (data)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (results/<name>)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (auto)")
    parser.add_argument("--batch-size", type=int, default=200, metavar="N", help="images a batch (200)")
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="loader processes (by the cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin import api, extraction, fingerprint
    from nci_plugin.benchmarks.opening import open_splits
    from nci_plugin.checks import PluginError, check_number
    from nci_plugin.config import load_benchmark
    from nci_plugin.networks.checkpoints import find_checkpoints
    from nci_plugin.report.files import ResultsDirectory
    from nci_plugin.results import complete

    check_number("--batch-size", options.batch_size, above=0, whole=True)
    check_number("--workers", options.workers or 0, least=0, whole=True)
    benchmark = load_benchmark(options.benchmark).with_data_root(options.data_root)
    setups = api.resolve_detectors(options.detectors)
    device = extraction.resolve_device(options.device)
    factory = options.net or benchmark.network
    if factory is None:
        raise PluginError(f"benchmark '{benchmark.name}': names no network; pass --net FILE.py:FACTORY")
    if options.ckpt_path is None and benchmark.checkpoints is None:
        raise PluginError(f"benchmark '{benchmark.name}': names no checkpoints; pass --ckpt-path")
    print(f"device: {_device_name(device)}")
    checkpoint_path = options.ckpt_path or RESULTS / str(benchmark.checkpoints)
    if benchmark.built_in is not None:
        _prepare(benchmark, options.data_root, checkpoint_path if options.ckpt_path is None else None, device)
    splits = open_splits(benchmark)
    checkpoints = find_checkpoints(checkpoint_path)
    networks = {seed: _load(benchmark, options, factory, path) for seed, path in checkpoints.items()}
    data = fingerprint.split_digest(splits)
    identities = {
        seed: {"weights": fingerprint.weights_digest(network), "data": data} for seed, network in networks.items()
    }
    directory = ResultsDirectory(options.output or RESULTS / _run_name(benchmark, checkpoint_path))
    directory.open(identities)
    _print_inputs(checkpoints, splits)

    results: list[Result] = []
    failures: dict[str, str] = {}
    workers = extraction.default_workers() if options.workers is None else options.workers
    for seed, network in networks.items():
        pass_options = extraction.ExtractionOptions(
            device=str(device),
            batch_size=options.batch_size,
            workers=workers,
            head=options.head,
            store=api.features_directory(directory.path, seed),
        )
        provenance = {
            **identities[seed],
            "checkpoint": str(checkpoints[seed]),
            "network_factory": factory,
            "data_root": str(options.data_root),
        }
        evaluation = api.run_network(network, benchmark, setups, splits, pass_options, provenance, directory, seed)
        results += evaluation.results
        for detector, reason in evaluation.failures.items():
            failures.setdefault(detector, f"{seed}: {reason}" if seed else reason)
    results = [result for result in complete(results) if result.detector not in failures]
    _print_report(results, failures, directory.path, directory.write_tables(results, failures))
    return 1 if failures else 0


def _prepare(benchmark: Benchmark, data_root: Path, checkpoints: Path | None, device: torch.device) -> None:
    """Make the built-in benchmark's images and checkpoints where they are missing."""
    from nci_plugin import built_in

    if built_in.write_data(data_root):
        print(f"data: wrote the images and lists of '{benchmark.name}' under {data_root}")
    for seed in built_in.missing_checkpoints(checkpoints) if checkpoints else []:
        assert checkpoints is not None
        last = built_in.train_checkpoint(benchmark, checkpoints, seed, device)
        print(
            f"trained {seed}: training accuracy {last['accuracy']:.1f} %, written to {checkpoints / seed / 'best.ckpt'}"
        )


def _load(benchmark: Benchmark, options: argparse.Namespace, factory: str, checkpoint: Path) -> nn.Module:
    from nci_plugin.networks.checkpoints import load_checkpoint
    from nci_plugin.networks.factory import build_network

    network = build_network(factory, benchmark.num_classes, {} if options.net else benchmark.network_arguments)
    load_checkpoint(network, checkpoint)
    return network


def _run_name(benchmark: Benchmark, checkpoint_path: Path) -> str:
    """The directory of the checkpoints, as in OpenOOD, with the seed for one of them; else the file's name."""
    path = checkpoint_path.resolve()
    if path.is_dir():
        name = path.name
    elif path.stem == "best" and path.parent.name[1:].isdecimal():
        name = f"{path.parents[1].name}_{path.parent.name}"
    else:
        return f"{benchmark.name}_{path.stem}"
    return name if name.startswith(benchmark.name) else f"{benchmark.name}_{name}"


def _device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _print_inputs(checkpoints: Mapping[str, Path], splits: Mapping[str, Any]) -> None:
    first = next(iter(checkpoints.values()))
    seeds = ", ".join(filter(None, checkpoints))
    print(f"checkpoints: {first.parents[1] / 's*' / first.name} ({seeds})" if seeds else f"checkpoint: {first}")
    print("images: " + ", ".join(f"{name} {len(split)}" for name, split in splits.items()))


def _print_report(results: list[Result], failures: Mapping[str, str], output: Path, written: list[str]) -> None:
    from nci_plugin.report.tables import choices_table, setting_table
    from nci_plugin.results import SETTINGS

    for setting in SETTINGS:
        text = setting_table(results, setting)
        if text:
            print(f"\n{text}")
        elif results:
            print("\nfull-spectrum OOD: no table, the benchmark has no covariate-shifted set (csid)")
    if results:
        print(f"\n{choices_table(results)}")
    for detector, reason in failures.items():
        print(f"\nnot scored: {detector}: {reason}")
    print(f"\nwritten to {output}: {', '.join(written) or 'nothing'}")
