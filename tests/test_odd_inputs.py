"""Inputs that a fresh pair of eyes tried: a right value, or one line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import served
import torch
from command import command
from served import rows
from tiny import Tiny
from torch.utils.data import DataLoader, TensorDataset

from nci_plugin import Benchmark, CollapseMonitor, ImageList, OODDetector, Preprocessing, diagnose, evaluate, explain
from nci_plugin.checks import PluginError
from nci_plugin.evaluation.evaluate import Evaluation
from nci_plugin.features.fingerprint import weights_digest
from nci_plugin.leaderboard.board import COLUMNS, Table

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    return Tiny(tmp_path)


# -------------------------------------------------------------------- results


def _knn(tiny: Tiny, neighbours: int) -> str:
    path = tiny.root / f"knn{neighbours}.yml"
    path.write_text(f"postprocessor: {{name: knn, APS_mode: False, postprocessor_args: {{K: {neighbours}}}}}\n")
    return str(path)


def _mine(tiny: Tiny, detector: str) -> str:
    path = tiny.root / "mine.yml"
    path.write_text(f"postprocessor: {{name: mine, detector: {detector}}}\n")
    return str(path)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (_knn, (1, 5), "'knn' was evaluated with other hyper-parameters for s1 than for s0"),
        (_mine, ("msp", "mls"), "'mine' was evaluated with another detector of that name for s1 than for s0"),
    ],
)
def test_seeds_of_other_settings_make_no_mean(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, config: Callable[..., str], values: tuple[Any, Any], message: str
) -> None:
    """A run with another K, or detector, that ends after s0 leaves the rows of s1 as they were."""
    from nci_plugin.evaluation.directory import ResultsDirectory

    before, after = values
    seeds = tiny.root / "seeds"
    for seed in range(2):
        tiny.save_checkpoint(seeds / f"s{seed}" / "best.ckpt", seed=seed)
    assert command(tiny.eval(config(tiny, before), "msp", ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0
    add = ResultsDirectory.add

    def interrupted(self: ResultsDirectory, evaluation: object, seed: str) -> None:
        if seed == "s1":
            raise KeyboardInterrupt
        add(self, evaluation, seed)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ResultsDirectory, "add", interrupted)
        assert command(tiny.eval(config(tiny, after), ckpt_path=seeds))[0] != 0
    for arguments in (["report"], ["leaderboard", "rank"], ["compare"]):
        code, _, error = command([*arguments, str(tiny.output)])
        assert (code, message in error) == (2, True)
    assert command(tiny.eval(config(tiny, after), ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0


def test_a_setting_takes_no_file_of_a_detector_of_an_earlier_run(tiny: Tiny) -> None:
    """A colon is an underscore in the names of files: the rows of the one would stand beside scores of the other."""
    assert command(tiny.eval("pytorch_ood:entropy"))[0] == 0
    scores = tiny.output / "scores" / "pytorch_ood_entropy.npz"
    before = scores.read_bytes()
    path = tiny.root / "mine.yml"
    path.write_text("postprocessor: {name: pytorch_ood_entropy, detector: msp}\n")
    code, _, error = command(tiny.eval(str(path)))
    message = "detector 'pytorch_ood_entropy': detector 'pytorch_ood:entropy' has a file of the same name; rename it"
    assert (code, message in error) == (2, True)
    assert scores.read_bytes() == before


# -------------------------------------------------------------------- datasets


def _samples(dtype: torch.dtype, rows: int = 12) -> list[tuple[torch.Tensor, int]]:
    images = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows))
    return [((255 * image).to(dtype), number % 3) for number, image in enumerate(images)]


class Scaling(torch.nn.Module):
    """A network that takes pixels, 0..255."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3 * 8 * 8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.float().flatten(1) / 255)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_are_not_cast_for_a_network_that_takes_floats(dtype: torch.dtype) -> None:
    """PILToTensor without scaling gave numbers of images that the network was not trained on."""
    split = _samples(dtype)
    benchmark = Benchmark.from_splits("mine", 3, test=split, near={"n": split})
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    for takes_floats in (plain, Scaling()):
        with pytest.raises(PluginError, match="scale them to floats as in training"):
            evaluate(takes_floats, benchmark, "msp", progress=False)
    split = [(image.float(), label) for image, label in split]
    benchmark = Benchmark.from_splits("mine", 3, test=split, near={"n": split})
    assert not evaluate(Scaling(), benchmark, "msp", progress=False).failures


class Normalising(torch.nn.Module):
    """A network that takes floats 0..1, and would take pixels of 0..255 without a word."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - 0.5) / 0.25)


def test_pixels_are_refused_whatever_is_asked_of_the_network() -> None:
    """A network that normalises floats took pixels of 0..255 as an OOD set, and told it perfectly."""
    network = Normalising(served.network())
    train, val = (TensorDataset(each.tensors[0] * 0.25 + 0.5, each.tensors[1]) for each in (rows(120, 1), rows(60, 2)))
    pixels = (255 * val.tensors[0]).byte()
    of_labels = TensorDataset(pixels, val.tensors[1])
    detector = OODDetector(progress=False).fit(network, train, val)
    benchmark = [
        Benchmark.from_splits("mine", 4, train=train, test=val, near={"pixels": near})
        for near in (list(pixels), of_labels)
    ]
    of_test = Benchmark.from_splits("mine", 4, train=train, test=of_labels, near={"n": val})
    monitor = CollapseMonitor(network, DataLoader(of_labels, 16))
    calls: list[tuple[Any, str]] = [
        *((partial(evaluate, network, each, "msp", progress=False), "split 'near/pixels'") for each in benchmark),
        (partial(evaluate, network, of_test, "msp", progress=False), "batch for network Normalising"),
        (partial(diagnose, network, train, val, near={"pixels": of_labels}), "split 'near/pixels'"),
        (partial(explain, network, pixels[0], train, val), "the image's"),
        (partial(detector.predict, pixels), "batch for network Normalising"),
        (partial(detector.score, list(pixels)), "batch for network Normalising"),
        (partial(detector.module(), pixels), "batch of images"),
        (partial(monitor.step, 1), "monitor: epoch 1: the loader"),
    ]
    for call, what in calls:
        with pytest.raises(PluginError, match=f"^{what}.* holds uint8, not floats: scale them"):
            call()


class Dataset(torch.utils.data.Dataset):
    """Samples, of which some raise, as its length may."""

    def __init__(self, error: BaseException, at: int, length: int = 12) -> None:
        self.error, self.at, self.length = error, at, length

    def __len__(self) -> int:
        if self.at < 0:
            raise self.error
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.at:
            raise self.error
        return torch.zeros(3, 8, 8), 0


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset(SystemExit(0), 9), "image 9: cannot be read (SystemExit"),
        (Dataset(GeneratorExit(), 0), "image 0: cannot be read (GeneratorExit"),
        (Dataset(RuntimeError("no data base"), -1), "its length cannot be read (RuntimeError: no data base)"),
        (Dataset(ValueError(), 99, length=-1), "its length cannot be read (ValueError"),
    ],
)
def test_whatever_a_dataset_raises_is_one_line(dataset: Dataset, message: str) -> None:
    """sys.exit(0) in a data set ended the program with 0 and no table."""
    benchmark = Benchmark.from_splits("mine", 3, test=dataset, near={"n": _samples(torch.float32)})
    with pytest.raises(PluginError) as raised:
        evaluate(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)), benchmark, "msp", progress=False)
    assert message in str(raised.value)


# -------------------------------------------------------------------- leaderboard


def test_a_cell_that_csv_does_not_read_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "cifar10.csv"
    path.write_text(f'{",".join(COLUMNS)}\nA,"{"x" * 200_000}",1.0,2.0,3.0,,,\n')
    with pytest.raises(PluginError, match="field larger than field limit"):
        Table.read(path, COLUMNS).cells()


class Augmented(torch.utils.data.Dataset):
    """Samples to which noise is added at each fetch."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 8, 8), index % 3


def test_samples_that_change_when_fetched_again() -> None:
    sound = _samples(torch.float32)
    for split in ("train", "val", "test"):
        splits = {"test": sound, "near": {"n": sound}, split: Augmented()}
        with pytest.raises(PluginError, match=f"split 'id/{split}': image 0 is another one when it is fetched again"):
            evaluate(Scaling(), Benchmark.from_splits("mine", 3, **splits), "msp", progress=False)
    noise = Benchmark.from_splits("mine", 3, test=sound, far={"noise": Augmented()})  # OOD images may be random
    assert evaluate(Scaling(), noise, "msp", progress=False).results


class Named(torch.utils.data.Dataset):
    """Samples of a data set that names its classes, as torchvision's ImageFolder does."""

    def __init__(self, *classes: str) -> None:
        self.class_to_idx = {name: index for index, name in enumerate(classes)}
        self.samples = _samples(torch.float32)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.samples[index]


def test_splits_whose_classes_have_other_numbers() -> None:
    near = {"n": _samples(torch.float32)}
    lacking = torch.utils.data.Subset(Named("cat", "dog"), range(9))
    benchmark = Benchmark.from_splits("mine", 3, train=Named("ant", "cat", "dog"), test=lacking, near=near)
    with pytest.raises(PluginError, match="class 'cat' is 1 in 'id/train' and 0 in 'id/test'"):
        evaluate(Scaling(), benchmark, "msp", progress=False)
    alike = Benchmark.from_splits("mine", 3, train=Named("ant", "cat"), test=Named("ant", "cat", "dog"), near=near)
    assert evaluate(Scaling(), alike, "msp", progress=False).results


# -------------------------------------------------------------------- networks


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = torch.nn.Linear(192, 3), torch.nn.Linear(192, 3)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.coarse(images.flatten(1)), self.fine(images.flatten(1))


def test_two_outputs_of_the_shape_of_logits() -> None:
    torch.manual_seed(0)  # a few random heads of a hundred rank nothing
    split = _samples(torch.float32)
    benchmark = Benchmark.from_splits("mine", 3, test=split, near={"n": split})
    with pytest.raises(PluginError, match=r"TwoHeads: returns several outputs of shape \(8, 3\)"):
        evaluate(TwoHeads(), benchmark, "msp", progress=False)
    assert evaluate(TwoHeads(), benchmark, "msp", progress=False, head="coarse").results


class Shifted(torch.nn.Module):
    """A network of which a plain attribute is known by no hash."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.fc, self.shift = torch.nn.Linear(192, 3), shift
        self.fc.weight.data = torch.randn(3, 192, generator=torch.Generator().manual_seed(0))
        torch.nn.init.zeros_(self.fc.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1) + self.shift)


def test_an_attribute_that_no_hash_knows_is_seen_by_the_features(tmp_path: Path) -> None:
    """Also where the batch size is another one, so that stored features are made again."""
    Tiny(tmp_path)
    preprocessing = Preprocessing(8, 8, ((0.0,) * 3, (1.0,) * 3))
    test, near = (
        ImageList(f"benchmark_imglist/tiny/{name}.txt", "images_classic/", preprocessing) for name in ("test", "near")
    )
    benchmark = Benchmark.from_splits("mine", 3, test=test, near={"near": near})

    def run(shift: float, batch_size: int) -> Evaluation:
        options = {"data_root": tmp_path / "data", "output": tmp_path / "out", "progress": False}
        return evaluate(Shifted(shift), benchmark, "msp", batch_size=batch_size, **options)

    run(0.0, 4)
    assert run(0.0, 3).results  # another batch size is no other network
    with pytest.raises(PluginError, match="a network that gave other features of the first test images"):
        run(0.5, 5)


def test_quantised_weights_are_part_of_a_network() -> None:
    """They are neither parameters nor buffers."""

    def quantised(value: float) -> torch.nn.Module:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
        torch.nn.init.constant_(network[1].weight, value)
        torch.nn.init.zeros_(network[1].bias)
        return torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)

    if not torch.backends.quantized.supported_engines[1:]:
        pytest.skip("this build of torch has no engine for quantised layers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will move quantisation elsewhere
        first, again, other = (weights_digest(quantised(value)) for value in (0.5, 0.5, 0.25))
    assert first == again != other


# -------------------------------------------------------------------- outputs


def test_outputs_never_replace_the_rows(tiny: Tiny) -> None:
    assert command(tiny.eval())[0] == 0
    rows = tiny.output / "results.jsonl"
    before = rows.read_bytes()
    for arguments in (["compare", "--json", str(rows)], ["report", "--output", str(rows)]):
        code, _, error = command([arguments[0], str(tiny.output), *arguments[1:]])
        assert (code, "must be a file named ." in error) == (2, True)
    assert rows.read_bytes() == before
