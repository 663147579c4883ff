"""``nci-ood train``: the checkpoints of the built-in benchmark, trained in different ways."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

LONG_TAILED = "long_tailed"
RECIPE = ("loss", "weight_decay", "epochs")
MOST_SEED = 10**9 - 1
"""The largest that ``dynamics`` knows a directory of a seed by."""

NETWORK = ("width", "depth", "activation", "head")


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
    parser.add_argument(
        "--loss",
        metavar="NAME",
        help="ce, mse, ce_then_mse (40 %% and 60 %% of the epochs), label_smoothing or focal (ce)",
    )
    parser.add_argument("--network", default="resnet", metavar="NAME", help="resnet, or mlp on 8x8 pixels (resnet)")
    parser.add_argument("--head", metavar="KIND", help="learned, or fixed_etf: frozen simplex ETF, no bias (learned)")
    parser.add_argument(
        "--width", type=int, metavar="N", help="channels of resnet's first stage, or units of mlp (16, 128)"
    )
    parser.add_argument(
        "--depth", type=int, metavar="N", help="blocks of each of resnet's stages, or hidden layers (2, 3)"
    )
    parser.add_argument("--activation", metavar="NAME", help="of mlp: relu, gelu, silu or tanh (relu)")
    parser.add_argument("--weight-decay", type=float, metavar="X", help="(the regime's)")
    parser.add_argument("--epochs", type=int, metavar="N", help="(the regime's)")
    parser.add_argument("--save-every", type=int, metavar="N", help="also keep the checkpoints of every N epochs")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="which networks to train (0 1 2)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write s*/best.ckpt (results/<name>)")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="images and lists (data)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N, mps or cpu (auto)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from nci_plugin import built_in
    from nci_plugin.checks import PluginError, check_known, check_number, check_writable
    from nci_plugin.config import load_benchmark
    from nci_plugin.features.options import resolve_device
    from nci_plugin.inputs import find_roots

    check_known("regime", options.regime, built_in.REGIMES)
    seeds = built_in.SEEDS if options.seeds is None else options.seeds
    for seed in seeds:
        check_number("--seeds", seed, least=0, whole=True, most=MOST_SEED)
    recipe = replace(built_in.REGIMES[options.regime], **_given(options, RECIPE))
    kept = built_in.saved_epochs(recipe.epochs, options.save_every)
    device = resolve_device(options.device)
    variant = options.regime == LONG_TAILED and not options.benchmark.endswith("_lt")
    name = f"{options.benchmark}_lt" if variant else options.benchmark
    roots = find_roots(name, options.data_root)
    benchmark = load_benchmark(name).with_data_root(roots.data)
    if benchmark.built_in is None:
        raise PluginError(f"benchmark '{name}': is not built in; train its networks with OpenOOD, or use digits")
    benchmark = built_in.with_network(benchmark, options.network, _given(options, NETWORK))
    directory = options.output or roots.results / f"{benchmark.checkpoints}{_suffix(options)}"
    check_writable(directory)
    built_in.write_data(roots.data)
    for seed in built_in.missing_checkpoints(directory, seeds, kept):
        last = built_in.train_checkpoint(benchmark, directory, seed, device, recipe, options.save_every)
        print(f"trained {seed}: training accuracy {last['accuracy']:.1f} %, loss {last['loss']:.4f}")
    print(f"checkpoints: {directory / 's*' / built_in.LAST}")
    if options.save_every:
        print(f"next: nci-ood dynamics {directory}")
    else:
        print(f"next: nci-ood diagnose {benchmark.name} --ckpt-path {directory}")
    return 0


def _given(options: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _suffix(options: argparse.Namespace) -> str:
    """What distinguishes the training from the standard one, behind the name of the standard checkpoints."""
    regime = [] if options.regime in ("standard", LONG_TAILED) else [options.regime]
    network = [] if options.network == "resnet" else [options.network]
    given = _given(options, (*RECIPE, *NETWORK))
    return "".join(f"_{part}" for part in (*regime, *network, *(f"{name}-{value}" for name, value in given.items())))
