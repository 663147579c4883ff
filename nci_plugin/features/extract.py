"""The whole of an extraction: plan, run, collect; every split of a benchmark, by one process or many."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nci_plugin.benchmarks.benchmark import TRAIN, Benchmark, Split
from nci_plugin.benchmarks.opening import open_splits
from nci_plugin.checks import PluginError
from nci_plugin.features.bank import FeatureBank, FitsOn, Images, Stages
from nci_plugin.features.fingerprint import features_digest
from nci_plugin.features.forward import Passed, prepared
from nci_plugin.features.options import ExtractionOptions, resolve_device
from nci_plugin.features.plan import Plan, make_plan
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.store import SplitStore
from nci_plugin.files import free_bytes, read_text, write_atomically
from nci_plugin.networks.head import LinearHead
from nci_plugin.progress import progress

SECONDS = "extraction_seconds"
"""The directory beside that of the features: by network the seconds of all visits together, null where unknown."""

SECONDS_FILE = re.compile(r"[0-9a-f]{32}\.json")

UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}


def extract(
    network: nn.Module | LinearHead,
    benchmark: Benchmark,
    training: Collection[FitsOn] = frozenset({FitsOn.BANK}),
    options: ExtractionOptions | None = None,
    splits: Mapping[str, Any] | None = None,
    stages: bool = False,
) -> FeatureBank:
    """Pass every image of ``benchmark`` through ``network`` once and keep features, logits and labels.

    Args:
        network: any classifier that ends in a linear layer; a LinearHead is enough if all splits are features.
        training: what the detectors need of the training split, as `training_needed` says.
        options: device, precision, batch size, workers, head and directory of the stored features (None = memory).
        splits: what `open_splits` returned, if it was called before.
        stages: also keep the pooled outputs of the network's stages, of the test, near and far splits, and their
            training statistics. Where features were stored without them, the images pass again, and a line says so.

    Stored splits of the same content are used again after their first images were recomputed and compared. Where there
    are more processes, each passes its share and all have the whole bank; its provenance is known to the first.
    Raises PluginError on bad input (see `open_splits`), on NaN or infinite features, naming split and row, and where
    the free space does not do.
    """
    options = options or ExtractionOptions()
    splits = splits or open_splits(benchmark, options.progress and options.processes.is_first)
    with prepared(network, resolve_device(options.device), channels_last=True):
        plan = make_plan(network, benchmark, training, options, splits, stages)
        if plan.options.processes.is_first:
            _say_what_is_missing(plan)
        return _collect(plan, _run(plan))


def _say_what_is_missing(plan: Plan) -> None:
    """Say how many bytes each split needs; raises PluginError if more are needed than are free."""
    store = plan.options.store
    if store is None or not plan.passing:
        return
    tell = plan.options.tell or (lambda _: None)
    needed = {name: each.bytes_to_store() for name, each in plan.passing.items()}
    free = free_bytes(store)
    splits = ", ".join(f"{name} {_size(count)}" for name, count in needed.items() if count)
    if splits:
        tell(f"features to store: {_size(sum(needed.values()))} ({splits}); {_size(free)} are free")
    if sum(needed.values()) > free:
        raise PluginError(
            f"output '{store}': {_size(sum(needed.values()))} of features are to be stored and"
            f" {_size(free)} are free; free space, choose another --output, or leave out detectors that need the"
            " training features"
        )
    again = sum(each.rows_again() for each in plan.passing.values())
    if again:
        tell(f"stages: an earlier run stored features without them, so {again} images pass again")


# -------------------------------------------------------------------- run


def _run(plan: Plan) -> float | None:
    """This process's share of the pass; the other processes are waited for.

    Returns the seconds that the features took, over all visits; None where an earlier one did not say.
    """
    options = plan.options
    file = None if options.store is None else options.store.with_name(SECONDS) / f"{plan.fingerprint}.json"
    before = _seconds_before(plan, file)
    options.processes.wait()  # what another process stores from now on is no earlier visit's
    passed_any = False

    def seconds() -> float | None:
        """A visit in which nothing passes adds nothing: the features are those of the visits before."""
        now = time.perf_counter() - plan.started if passed_any or file is None else 0.0
        return None if before is None else round(before + now, 3)

    if options.begin is not None:
        options.begin()
    shown, checked = options.progress and options.processes.is_first, False
    total = sum(each.layout.rows_of(*each.numbers) for each in plan.passing.values())
    with progress("extract", "img", total, shown) as bar:
        for name, collector in plan.passing.items():
            missing = collector.missing()
            if not checked and plan.forward is not None and (stored := collector.first_stored()) is not None:
                collector.check_stored(plan.forward, name, stored, plan.first_images(name, stored))
                checked = True
            passed, to_pass = _passed(plan, name, missing, bar.update), set(missing)
            for number in collector.numbers:
                if number not in to_pass:
                    bar.total -= collector.layout.rows_of(number)  # stored already: no part of rate and time left
                collector.add_shard(number, next(passed) if number in to_pass else None)
                passed_any = passed_any or number in to_pass
                if file is not None and number in to_pass and options.processes.is_first:
                    write_atomically(file, json.dumps(seconds()), durable=False)  # an interruption loses one shard's
            collector.end()
    passed_any = options.processes.any(passed_any)
    if file is not None and passed_any and options.processes.is_first:
        write_atomically(file, json.dumps(seconds()), durable=False)
    return seconds()


def remove_stored(store: Path) -> None:
    """Remove what an extraction left at its ``store`` and beside it; files of other names stay.

    What the system still holds open stays too: Windows keeps files that are mapped.
    """
    for directory in (store, store.with_name(SECONDS)):
        for path in (*sorted(directory.rglob("*"), reverse=True), directory):
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                elif SplitStore.is_name(path.name) or (directory != store and SECONDS_FILE.fullmatch(path.name)):
                    path.unlink()


def _seconds_before(plan: Plan, file: Path | None) -> float | None:
    """What earlier visits took: 0 where nothing is stored, None where something is that says no time."""
    if file is not None and file.is_file():
        with suppress(PluginError, ValueError, TypeError):
            return float(json.loads(read_text(file, "seconds", 100, "remove it")))
        return None
    stores = [each.store for each in plan.passing.values() if each.store is not None]
    return None if any(store.directory.exists() for store in stores) else 0.0


def _passed(plan: Plan, name: str, numbers: Collection[int], done: Callable[[int], Any]) -> Iterator[Passed]:
    """Pass the batches of some shards, and put each shard together."""
    assert plan.forward is not None  # there are images
    layout, stages = plan.passing[name].layout, plan.passing[name].passes_stages
    starts = [start for number in numbers for start in layout.starts(number)]
    batches = plan.batches(name, starts, plan.options.workers)
    passed = plan.forward.over(batches, f"split '{name}'", starts, stages)
    for number in numbers:
        parts = []
        for part in islice(passed, len(layout.starts(number))):
            done(len(part.chunk))
            parts.append(part)
        yield Passed.joined(parts)


# -------------------------------------------------------------------- collect


def _collect(plan: Plan, seconds: float | None) -> FeatureBank:
    """The bank, once all shards are there."""
    splits, outputs, float32 = dict(plan.given), {}, {}
    processes = plan.options.processes
    for name, collector in plan.passing.items():
        collector.gather(name, {"benchmark": plan.benchmark.name, "network": plan.head.network}, processes)
        if collector.split is not None:
            splits[name] = collector.split
        if collector.stages:
            outputs[name] = collector.outputs
        if plan.options.amp != "none" and Split.parse(name).is_tested:
            float32[name] = _in_float32(plan, name)
    statistics, images = plan.training.statistics, None
    if plan.forward is not None:
        cut = plan.forward.cut
        images = Images(cut.network, plan.device, plan.images, plan.options.workers, cut.head_name)
    of_stages = {of: each for of, each in statistics.items() if isinstance(of, str)}
    bank = FeatureBank(
        head=plan.head,
        splits={name: splits[name] for name in plan.benchmark.splits if name in splits},
        statistics=statistics.get(FitsOn.STATISTICS),
        batch_size=plan.options.batch_size,
        images=images,
        training_store=plan.passing[TRAIN].store if TRAIN in plan.passing else None,
        unit_statistics=statistics.get(FitsOn.UNIT_STATISTICS),
        stages=Stages(of_stages, outputs) if of_stages or outputs else None,
        float32=float32,
        processes=processes,
        device=plan.device,
    )
    if not processes.is_first:
        return bank
    return replace(bank, provenance=_provenance(plan, features_digest(bank), seconds))


def _in_float32(plan: Plan, name: str) -> FeatureSplit:
    """The first batch once more, in float32."""
    assert plan.forward is not None
    images, labels = next(plan.batches(name, [0]))
    features, logits, _ = plan.forward(images, float32=True)
    return FeatureSplit.of(features.cpu(), logits.cpu(), labels.long())


def _provenance(plan: Plan, features: str, seconds: float | None) -> dict[str, Any]:
    import torchvision  # 1.5 s

    return {
        "network": plan.head.network,
        "fingerprint": plan.fingerprint,
        "device": str(plan.device),
        "batch_size": plan.options.batch_size,
        "amp": plan.options.amp,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "extraction_seconds": seconds,
        "features": features,
    }


def _size(count: int) -> str:
    """A number of bytes as text."""
    unit, divisor = next(((unit, size) for unit, size in UNITS.items() if count >= size), ("bytes", 1))
    return f"{count / divisor:.1f} {unit}" if divisor > 1 else f"{count} bytes"
