"""Inputs that a fresh pair of eyes tried: a right value, or one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from test_command_line import command
from tiny import Tiny

from nci_plugin import Benchmark, evaluate
from nci_plugin.checks import PluginError
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


def test_seeds_of_other_hyperparameters_make_no_mean(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with another K that ends after s0 leaves the rows of s1 as they were."""
    from nci_plugin.report.files import ResultsDirectory

    seeds = tiny.root / "seeds"
    for seed in range(2):
        tiny.save_checkpoint(seeds / f"s{seed}" / "best.ckpt", seed=seed)
    assert command(tiny.eval(_knn(tiny, 1), "msp", ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0
    add = ResultsDirectory.add

    def interrupted(self: ResultsDirectory, evaluation: object, seed: str) -> None:
        if seed == "s1":
            raise KeyboardInterrupt
        add(self, evaluation, seed)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ResultsDirectory, "add", interrupted)
        assert command(tiny.eval(_knn(tiny, 5), ckpt_path=seeds))[0] != 0
    for arguments in (["report"], ["leaderboard", "rank"], ["compare"]):
        code, _, error = command([*arguments, str(tiny.output)])
        assert (code, "'knn' was evaluated with other hyper-parameters for s1 than for s0" in error) == (2, True)
    assert command(tiny.eval(_knn(tiny, 5), ckpt_path=seeds))[0] == 0
    assert command(["report", str(tiny.output)])[0] == 0


# -------------------------------------------------------------------- datasets


def _samples(dtype: torch.dtype, rows: int = 12) -> list[tuple[torch.Tensor, int]]:
    images = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows))
    return [((255 * image).to(dtype), number % 3) for number, image in enumerate(images)]


class Scaling(torch.nn.Module):
    """A network that takes pixels as they are."""

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
    with pytest.raises(PluginError, match="scale them to floats as in training"):
        evaluate(plain, benchmark, "msp", progress=False)
    assert not evaluate(Scaling(), benchmark, "msp", progress=False).failures


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
