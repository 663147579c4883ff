"""What OpenOOD changes in a process stays OpenOOD's: truncated images are read by its data sets alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cifar import BENCHMARK, Checkout, network
from openood.datasets.imglist_dataset import ImglistDataset
from openood.evaluation_api import Evaluator
from PIL import Image, ImageFile
from torch.utils.data import DataLoader

import nci_plugin
from nci_plugin import ImageList, PluginError, Preprocessing
from nci_plugin.benchmarks.opening import collate

LINES = "whole.jpg 0\ntruncated.jpg 1\n"


@pytest.fixture(autouse=True)
def as_python_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A whole image and one of which the end is missing, with their list."""
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "list.txt").write_text(LINES, encoding="utf-8")
    return tmp_path


def to_tensor(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy())


def theirs(images: Path) -> ImglistDataset:
    return ImglistDataset("set", str(images / "list.txt"), str(images), 2, to_tensor, to_tensor)


def ours(images: Path) -> Any:
    size = Preprocessing(pre_size=8, img_size=8, normalization=((0.5,) * 3, (0.5,) * 3))
    return ImageList(imglist_path="list.txt", data_dir="", data_root=images, preprocessing=size).read()


@pytest.mark.parametrize("workers", [0, 2])
def test_openoods_data_sets_read_truncated_images_and_ours_do_not(images: Path, workers: int) -> None:
    nci_plugin.register(override=False)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    (batch,) = DataLoader(theirs(images), 2, num_workers=workers)
    assert batch["label"].tolist() == [0, 1]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    whole, truncated = DataLoader(ours(images), 1, num_workers=workers, collate_fn=collate)
    assert not isinstance(whole, PluginError)
    assert isinstance(truncated, PluginError)
    assert "truncated.jpg" in str(truncated)
    with pytest.raises(OSError, match="truncated"):
        Image.open(images / "truncated.jpg").load()
    (batch,) = DataLoader(theirs(images), 2, num_workers=workers)  # and the other way round


@pytest.mark.parametrize("before", [True, False])
def test_the_setting_is_what_it_was(images: Path, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a user's own, after an item that cannot be read, and with items that threads read at the same time."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    nci_plugin.register(override=False)
    nci_plugin.register(override=False)
    items = theirs(images)
    threads = [threading.Thread(target=lambda: [items[1] for _ in range(5)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    (images / "truncated.jpg").write_bytes(b"none")
    with pytest.raises(OSError, match="cannot identify"):
        items[1]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before


def test_a_fresh_process(images: Path) -> None:
    """Where nothing of OpenOOD has been imported."""
    code = (
        "import nci_plugin; nci_plugin.register(); from PIL import ImageFile;"
        " import openood.evaluation_api, openood.datasets, openood.pipelines;"
        " print(ImageFile.LOAD_TRUNCATED_IMAGES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["False"], done.stderr


def test_the_evaluator_on_a_cpu(tmp_path: Path) -> None:
    """As docs/howto/openood.md writes it, in a checkout with its data."""
    checkout = Checkout(tmp_path / "OpenOOD")
    nci_plugin.register()
    try:
        with nci_plugin.on_device("cpu"):
            evaluator = Evaluator(
                network(0).eval(),
                id_name=BENCHMARK,
                postprocessor_name="neco",
                data_root=str(checkout.data),
                config_root=str(checkout.root / "configs"),
                num_workers=0,
            )
            table = evaluator.eval_ood(progress=False)
    finally:
        nci_plugin.register(override=False)
    assert {"nearood", "farood"} <= set(table.index)
    assert "cpu" not in repr(torch.Tensor.cuda)
