"""OpenOOD's ResNet-18 recipe on packed CIFAR-10 images, in the time there is, and what a study needs of the network.

    python scripts/bench/training.py --packs DIR --out DIR --device cuda [--seconds S] [--epochs N] [--width N]

``DIR`` is what ``packing.py`` wrote. SGD with Nesterov momentum 0.9, weight decay 5e-4, batches of 128, the rate from
0.1 by a cosine to 1e-6 in steps, crops of 4 pixels and mirrored images: as OpenOOD trains, but for the number of images
and, where the time does not do, of epochs, which the first batches' time decides.

``OUT`` gets ``statistics.npz`` (class statistics of all training images in float64, and the head) and one file for the
first training images, for each other ID split and for each group of OOD sets: features (n, P) in float16, labels and
the ``data_set`` of each row, a place in ``names``. At most 7 files of 16 MiB, 60 MiB together, beside the report: rows
beyond that are left out, of each set of a group alike, and the report says how many of how many are there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import keep, parser, publish
from packing import unpack
from torch import Tensor, nn

from nci_plugin.benchmarks.benchmark import FAR, NEAR, TRAIN, Benchmark
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.config import load_benchmark
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.extract import extract
from nci_plugin.features.options import ExtractionOptions, resolve_device
from nci_plugin.networks.resnet import ResNet18_32x32

BATCH, PAD, RATE, LAST_RATE, EPOCHS = 128, 4, 0.1, 1e-6, 100
WARM_UP, TIMED = 10, 20
"""Batches before the time of one is measured, and those by which it is."""

FILE_BYTES, ALL_BYTES = 16 * 2**20, 60 * 2**20
TRAINING_ROWS = 10_000


def augmented(images: Tensor, black: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (n, 3, H, W) mirrored or not, and cut out of its copy with `PAD` pixels of ``black`` (3, 1, 1) around.

    OpenOOD puts black around before it normalises.
    """
    count, _, height, width = images.shape
    mirrored = torch.rand(count, generator=generator).to(images.device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = black.expand(count, -1, height + 2 * PAD, width + 2 * PAD).clone()
    padded[:, :, PAD:-PAD, PAD:-PAD] = images
    padded = padded.permute(0, 2, 3, 1)
    top, left = torch.randint(2 * PAD + 1, (2, count, 1), generator=generator).to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    index = torch.arange(count, device=images.device)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def train(
    network: nn.Module, images: Tensor, labels: Tensor, black: Tensor, most: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Train in place, for up to ``most`` epochs that end within so many seconds; what was done."""
    started, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
    parameters = list(network.parameters())

    def epoch(optimizer: torch.optim.Optimizer, schedule: Any, batches: int | None = None) -> float:
        right = torch.zeros((), device=images.device)
        order = torch.randperm(len(images), generator=generator).to(images.device)
        for indices in order.split(BATCH)[:batches]:
            logits = network(augmented(images[indices], black, generator).contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[indices]).backward()
            optimizer.step()
            schedule.step()
            right += (logits.argmax(dim=1) == labels[indices]).sum()
        return 100 * right.item() / len(images)  # .item() waits for the device

    def prepared(steps: int) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD(parameters, RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, LAST_RATE)

    network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    epoch(*prepared(WARM_UP), WARM_UP)
    measured = time.perf_counter()
    epoch(*prepared(TIMED), TIMED)
    batches = -(-len(images) // BATCH)
    of_epoch = batches * (time.perf_counter() - measured) / min(TIMED, batches)
    network.load_state_dict(before)
    left = seconds - (time.perf_counter() - started)
    epochs = max(1, min(most, int(left / of_epoch)))
    optimizer, schedule = prepared(epochs * batches)
    accuracies: list[float] = []
    while len(accuracies) < epochs and time.perf_counter() - started < 1.1 * seconds:
        accuracies.append(epoch(optimizer, schedule))
    network.eval()
    took = time.perf_counter() - started
    return {
        "epochs": len(accuracies),
        "epochs_planned": epochs,
        "training_accuracy": accuracies[-1],
        "training_s": took,
        "epoch_s": of_epoch,
    }


def stored(
    out: Path, features: Mapping[str, tuple[Tensor, Tensor]], statistics: Mapping[str, Tensor]
) -> dict[str, int]:
    """Write the files within their limits, what comes first first; returns the rows of each, and prints what is not
    there."""
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "statistics.npz", **{name: tensor.numpy() for name, tensor in statistics.items()})
    left = ALL_BYTES - (out / "statistics.npz").stat().st_size
    files: dict[str, list[str]] = {}
    for name in features:
        group = name.split("/")[0]
        files.setdefault(group if group in (NEAR, FAR) else name.replace("/", "."), []).append(name)
    rows: dict[str, int] = {}
    for number, (file, names) in enumerate(files.items()):
        values, labels = (torch.cat([features[name][part] for name in names]) for part in (0, 1))
        lengths = [len(features[name][1]) for name in names]
        data_set = torch.arange(len(names)).repeat_interleave(torch.tensor(lengths))
        in_turn = torch.cat([torch.arange(length) for length in lengths]).argsort(stable=True)  # all lose alike
        share = min(FILE_BYTES, left // (len(files) - number)) - 2**12  # headers
        rows[file] = min(len(values), share // (2 * values.shape[1] + 16))
        kept = in_turn[: rows[file]]
        arrays = {"features": values[kept].half(), "labels": labels[kept], "data_set": data_set[kept]}
        path = out / f"{file}.npz"
        np.savez(path, names=np.array(names), **{name: tensor.numpy() for name, tensor in arrays.items()})
        left -= path.stat().st_size
        if rows[file] < len(values):
            print(f"{path.name}: {len(values) - rows[file]} of {len(values)} rows are left out", file=sys.stderr)
    return rows


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--packs", type=Path, required=True, metavar="DIR", help="what packing.py wrote")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="where statistics and features go")
    made.add_argument("--device", default="cuda", help="(cuda)")
    made.add_argument("--seconds", type=float, default=200.0, metavar="S", help="of training, at most (200)")
    made.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"at most ({EPOCHS}, OpenOOD's)")
    made.add_argument("--width", type=int, default=64, metavar="N", help="channels of the first stage (64, OpenOOD's)")
    asked = made.parse_args(arguments)
    device = resolve_device(asked.device)
    source = load_benchmark("cifar10").splits[TRAIN]
    assert isinstance(source, ImageList)
    mean, deviation = (torch.tensor(each)[:, None, None] for each in source.preprocessing.normalization)
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for path in sorted(asked.packs.glob("*.npz")):
        raw, labels = unpack(path)
        images = torch.from_numpy(raw).permute(0, 3, 1, 2) / 255
        splits[path.stem.replace(".", "/", 1)] = (images - mean) / deviation, torch.from_numpy(labels)
    images, labels = splits[TRAIN]
    classes = int(labels.max()) + 1
    torch.manual_seed(asked.seed)
    network = ResNet18_32x32(classes, asked.width).to(device, memory_format=torch.channels_last)
    black = (-mean / deviation).to(device)
    done = train(network, images.to(device), labels.to(device), black, asked.epochs, asked.seconds, asked.seed)
    keep({"device": asked.device, **done, "of_epochs": EPOCHS}, asked.json)

    def group(name: str) -> dict[str, Any]:
        return {split.split("/")[1]: data_set(split) for split in splits if split.split("/")[0] == name}

    def data_set(split: str) -> Any:
        return torch.utils.data.TensorDataset(*splits[split]) if split in splits else None

    benchmark = Benchmark.from_splits(
        *("packed", classes),
        train=data_set(TRAIN),
        val=data_set("id/val"),
        test=data_set("id/test"),
        ood_val=data_set("ood/val"),
        near=group("near"),
        far=group("far"),
    )
    started = time.perf_counter()
    loading = ExtractionOptions(str(device), 500, progress=False)
    bank = extract(network, benchmark, {FitsOn.STATISTICS, FitsOn.BANK}, loading)
    assert bank.statistics is not None
    extracted = time.perf_counter() - started
    first = bank.splits[TRAIN].rows(0, TRAINING_ROWS)
    features = {TRAIN: first, **{name: split for name, split in bank.splits.items() if name != TRAIN}}
    head = {"weight": bank.head.weight.detach(), "bias": bank.head.bias.detach()}
    rows = {name: (each.features, each.labels) for name, each in features.items()}
    kept = stored(asked.out, rows, {**bank.statistics.state_dict(), **head})
    test = bank.splits["id/test"]
    report: dict[str, Any] = {
        "test_accuracy": 100 * float((test.predictions == test.labels).double().mean()),
        "extraction_s": extracted,
        **done,
        "images": {name: len(each) for name, (each, _) in splits.items()},
        "rows_left_out": sum(len(labels) for _, labels in rows.values()) - sum(kept.values()),
        "rows_kept": kept,
        "of_epochs": EPOCHS,
    }
    publish({"device": asked.device, **report}, asked.json)


if __name__ == "__main__":
    main()
