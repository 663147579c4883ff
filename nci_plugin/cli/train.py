"""``nci-ood train``: the checkpoints of the built-in benchmark, trained in different ways."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

LONG_TAILED = "long_tailed"


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train the checkpoints of the built-in benchmark",
        description="Train the networks s0, s1, s2 of the built-in benchmark digits; those that are there stay.",
    )
    parser.add_argument("benchmark", metavar="BENCHMARK", help="digits or digits_lt")
    parser.add_argument(
        "--regime",
        default="standard",
        metavar="NAME",
        help="standard; overfit: Adam without augmentation or weight decay, to zero training error; or long_tailed:"
        " standard, on digits_lt (standard)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write s*/best.ckpt (results/<name>)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="images and lists (data)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (auto)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from nci_plugin import built_in
    from nci_plugin.checks import PluginError, check_known, check_writable
    from nci_plugin.config import load_benchmark
    from nci_plugin.extraction import resolve_device
    from nci_plugin.inputs import find_roots

    check_known("regime", options.regime, built_in.REGIMES)
    device = resolve_device(options.device)
    variant = options.regime == LONG_TAILED and not options.benchmark.endswith("_lt")
    name = f"{options.benchmark}_lt" if variant else options.benchmark
    roots = find_roots(name, options.data_root)
    benchmark = load_benchmark(name).with_data_root(roots.data)
    if benchmark.built_in is None:
        raise PluginError(f"benchmark '{name}': is not built in; train its networks with OpenOOD, or use digits")
    suffix = "" if options.regime in ("standard", LONG_TAILED) else f"_{options.regime}"
    directory = options.output or roots.results / f"{benchmark.checkpoints}{suffix}"
    check_writable(directory)
    built_in.write_data(roots.data)
    for seed in built_in.missing_checkpoints(directory):
        last = built_in.train_checkpoint(benchmark, directory, seed, device, built_in.REGIMES[options.regime])
        print(f"trained {seed}: training accuracy {last['accuracy']:.1f} %, loss {last['loss']:.4f}")
    print(f"checkpoints: {directory / 's*' / 'best.ckpt'}")
    print(f"next: nci-ood diagnose {benchmark.name} --ckpt-path {directory}")
    return 0
