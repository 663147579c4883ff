"""Extraction against the bare loop ``for images, labels in loader: network(images.to(device))`` on the same loader.

    python scripts/bench/extraction.py [--workload NAME] [--train N] [--test N] [--width N] [--batch-size N]
        [--device DEVICE] [--workers N] [--amp NAME] [--rounds N]

All images of all splits, in turn: the bare loop, on a GPU with the channels last too, as the extraction has them; the
extraction that stores every feature; the one that keeps statistics of the training split, as most detectors need; and
that with the outputs of the network's stages. Each extraction begins with an empty directory. A ratio is
one of medians. The network's weights, which a run hashes once, are hashed in the round that warms up alone:
``weights_hash_s`` is what that takes.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import gpu_peak, in_turn, keep, parser, publish, timed
from workload import Work, add_options, opened

from nci_plugin.benchmarks.opening import image_batches, open_splits
from nci_plugin.features import plan
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.fingerprint import network_digest, weights_digest
from nci_plugin.features.forward import prepared
from nci_plugin.features.options import AMP, ExtractionOptions, check_amp, resolve_device

STATISTICS = {FitsOn.STATISTICS}


def sides(work: Work, options: Any) -> dict[str, Callable[[], object]]:
    device, dtype = resolve_device(options.device), AMP[options.amp]
    splits, store = open_splits(work.benchmark), work.directory / "features"
    hashed_once = functools.cache(network_digest)
    on_gpu = device.type == "cuda"

    def bare(channels_last: bool = False) -> None:
        precision = torch.autocast(device.type, dtype) if dtype is not None else nullcontext()
        layout = torch.channels_last if channels_last else torch.preserve_format
        with prepared(work.network, device, channels_last), precision:
            for name, split in splits.items():
                for images, _ in image_batches(name, split, options.batch_size, options.workers, on_gpu):
                    work.network(images.to(device, non_blocking=on_gpu, memory_format=layout))
            if on_gpu:
                torch.cuda.synchronize(device)

    def extraction(training: set[FitsOn], stages: bool = False) -> None:
        settings = ExtractionOptions(
            options.device, options.batch_size, options.workers, store=store, progress=False, amp=options.amp
        )
        with mock.patch.object(plan, "network_digest", hashed_once):
            extract(work.network, work.benchmark, training, settings, splits, stages)
        emptied(store)

    fast = {"bare_channels_last": lambda: bare(channels_last=True)} if on_gpu else {}
    return {
        "bare": bare,
        **fast,
        "stored": lambda: extraction({FitsOn.BANK}),
        "statistics": lambda: extraction(STATISTICS),
        "stages": lambda: extraction(STATISTICS, stages=True),
    }


def emptied(store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    add_options(made)
    made.add_argument("--amp", default="none", metavar="NAME", help=f"{', '.join(AMP)} (none), for both sides")
    made.add_argument("--rounds", type=int, default=7, metavar="N", help="timed rounds after one that warms up (7)")
    options = made.parse_args(arguments)
    device = resolve_device(options.device)
    check_amp(options.amp, device)
    with opened(options) as work:
        emptied(work.directory / "features")
        count = sum(map(len, open_splits(work.benchmark).values()))
        hashing = timed(lambda: weights_digest(work.network))[0]

        def report(seconds: Mapping[str, float]) -> dict[str, Any]:
            numbers = {f"{name}_s": value for name, value in seconds.items()}
            numbers.update({f"{name}_over_bare": seconds[name] / seconds["bare"] for name in seconds if name != "bare"})
            numbers |= {"stored_images_per_second": count / seconds["stored"], "weights_hash_s": hashing}
            sizes = {"images": count, "threads": torch.get_num_threads()}
            sizes.update({name: getattr(options, name) for name in ("batch_size", "workers", "rounds")})
            return {"device": options.device, "amp": options.amp, "sizes": sizes, **numbers, **gpu_peak(device)}

        def so_far(seconds: Mapping[str, float]) -> None:
            keep(report(seconds), options.json)

        publish(report(in_turn(sides(work, options), options.rounds, so_far=so_far)), options.json)


if __name__ == "__main__":
    main()
