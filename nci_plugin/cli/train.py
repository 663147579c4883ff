"""``nci-ood train``: the checkpoints of a built-in benchmark, trained in different ways."""

from __future__ import annotations

from dataclasses import replace
from shlex import quote
from typing import Any

from nci_plugin import built_in
from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.benchmarks import digits
from nci_plugin.checks import PluginError, check_known, check_number, check_writable
from nci_plugin.cli.tool_commands import Train
from nci_plugin.config import load_benchmark
from nci_plugin.features.options import resolve_device

LONG_TAILED = "long_tailed"
RECIPE = ("loss", "weight_decay", "epochs")
NETWORK = ("width", "depth", "activation", "head")
MOST_SEED = 10**9 - 1
"""The largest that ``dynamics`` knows a directory of a seed by."""


def run(options: Train) -> int:
    check_known("regime", options.regime, built_in.REGIMES)
    seeds = built_in.SEEDS if options.seeds is None else options.seeds
    for seed in seeds:
        check_number("--seeds", seed, least=0, whole=True, most=MOST_SEED)
    recipe = replace(built_in.REGIMES[options.regime], **_changes(options, RECIPE))
    kept = built_in.saved_epochs(recipe.epochs, options.save_every)
    device = resolve_device(options.device)
    variant = options.regime == LONG_TAILED and not options.benchmark.endswith("_lt")
    name = f"{options.benchmark}_lt" if variant else options.benchmark
    roots = find_roots(name, options.data_root)
    benchmark = load_benchmark(name).with_data_root(roots.data)
    if benchmark.built_in is None:
        raise PluginError(f"benchmark '{name}': is not built in; train its networks with OpenOOD, or use digits")
    benchmark = built_in.with_network(benchmark, options.network, _changes(options, NETWORK))
    directory = options.output or roots.results / f"{benchmark.checkpoints}{_suffix(options)}"
    check_writable(directory)
    built_in.check_training(benchmark, directory, recipe)
    digits.write_digits(roots.data)
    for subdirectory in built_in.missing_checkpoints(directory, seeds, kept):
        last = built_in.train_checkpoint(benchmark, directory, subdirectory, device, recipe, options.save_every)
        print(f"trained {subdirectory}: training accuracy {last['accuracy']:.1f} %, loss {last['loss']:.4f}")
    print(f"checkpoints: {directory / 's*' / built_in.LAST}")
    if options.save_every:
        print(f"next: nci-ood dynamics {quote(str(directory))}")
    else:
        print(f"next: nci-ood diagnose {benchmark.name} --ckpt-path {quote(str(directory))}")
    return 0


def _changes(options: Train, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _suffix(options: Train) -> str:
    """What distinguishes the training from the standard one, behind the name of the standard checkpoints."""
    regime = [] if options.regime in ("standard", LONG_TAILED) else [options.regime]
    network = [] if options.network == "resnet" else [options.network]
    changes = _changes(options, (*RECIPE, *NETWORK))
    return "".join(f"_{part}" for part in (*regime, *network, *(f"{name}-{value}" for name, value in changes.items())))
