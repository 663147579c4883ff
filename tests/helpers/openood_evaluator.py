"""OpenOOD's own evaluator, unmodified, on the images of one of this package's benchmarks.

OpenOOD's evaluator knows its own ID data sets only; while `registered` is open it knows this one too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import nn

from nci_plugin.adapters.openood.checkout import import_openood
from nci_plugin.adapters.openood.device import cuda_on
from nci_plugin.adapters.openood.runner import seed
from nci_plugin.benchmarks.benchmark import CSID, FAR, NEAR, OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark
from nci_plugin.benchmarks.image_list import ImageList
from nci_plugin.checks import PluginError


@dataclass(frozen=True)
class HostAnswers:
    """Scores by this package's split names, hyper-parameters that were searched, and OpenOOD's tables by setting."""

    scores: Mapping[str, np.ndarray]
    hyperparameters: Any
    tables: Mapping[str, pd.DataFrame]


def data_info(benchmark: Benchmark) -> dict[str, Any]:
    """A benchmark in the form of OpenOOD's DATA_INFO; raises PluginError unless all splits are image lists."""

    def entry(split: str) -> dict[str, str]:
        source = _image_list(benchmark, split)
        return {"data_dir": source.data_dir, "imglist_path": source.imglist_path}

    def group(name: str) -> dict[str, Any]:
        sets = benchmark.data_sets(name)
        return {"datasets": sets, **{each: entry(f"{name}/{each}") for each in sets}}

    return {
        "num_classes": benchmark.num_classes,
        "id": {"train": entry(TRAIN), "val": entry(VALIDATION), "test": entry(TEST)},
        "csid": group(CSID),
        "ood": {"val": entry(OOD_VALIDATION), "near": group(NEAR), "far": group(FAR)},
    }


@contextmanager
def registered(benchmark: Benchmark) -> Iterator[None]:
    """While this is open, the benchmark is in every table in which OpenOOD lists its own."""
    from openood.evaluation_api import datasets, preprocessor
    from openood.postprocessors.info import num_classes_dict

    preprocessing = _image_list(benchmark, TEST).preprocessing
    sizes = {"pre_size": preprocessing.pre_size, "img_size": preprocessing.img_size}
    normalization = [list(row) for row in preprocessing.normalization]
    added: list[tuple[dict, Any]] = [
        (datasets.DATA_INFO, data_info(benchmark)),
        (datasets.benchmarks_dict, []),  # nothing to download
        (preprocessor.default_preprocessing_dict, {**sizes, "normalization": normalization}),
        (num_classes_dict, benchmark.num_classes),
    ]
    patches = [mock.patch.dict(table, {benchmark.name: value}) for table, value in added]
    with patches[0], patches[1], patches[2], patches[3]:
        yield


def evaluate(
    network: nn.Module, benchmark: Benchmark, method: str, *, config_root: Path | None = None, batch_size: int = 200
) -> HostAnswers:
    """What OpenOOD's Evaluator answers on the CPU in both settings, with seeded random numbers from its setup on.

    ``config_root`` is the directory of OpenOOD's YAML files, its checkout's own if None. Raises whatever OpenOOD does.
    """
    root = import_openood()
    from openood.evaluation_api import Evaluator
    from openood.evaluation_api.postprocessor import get_postprocessor

    configs = str(config_root or root / "configs")
    with registered(benchmark), cuda_on(torch.device("cpu")):
        postprocessor = get_postprocessor(configs, method, benchmark.name)
        setup = postprocessor.setup

        def seeded_setup(*arguments: Any) -> None:
            seed()
            setup(*arguments)

        postprocessor.setup = seeded_setup
        evaluator = Evaluator(
            network,
            benchmark.name,
            data_root=str(_image_list(benchmark, TEST).data_root),
            config_root=configs,
            postprocessor_name=method,
            postprocessor=postprocessor,
            batch_size=batch_size,
            num_workers=0,
        )
        tables = {"ood": evaluator.eval_ood(progress=False)}
        if benchmark.data_sets(CSID):
            tables["fsood"] = evaluator.eval_ood(fsood=True, progress=False)
    searched = postprocessor.get_hyperparam() if postprocessor.hyperparam_search_done else None
    return HostAnswers(_by_split(evaluator.scores), searched, tables)


def _image_list(benchmark: Benchmark, split: str) -> ImageList:
    source = benchmark.splits.get(split)
    if not isinstance(source, ImageList):
        raise PluginError(f"benchmark '{benchmark.name}': OpenOOD's evaluator needs an image list for '{split}'")
    return source


def _by_split(scores: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {TEST: scores["id"]["test"]}
    found.update({f"{CSID}/{name}": value for name, value in scores["csid"].items()})
    for group in (NEAR, FAR):
        found.update({f"{group}/{name}": value for name, value in scores["ood"][group].items()})
    return {split: np.reshape(confidences, -1) for split, (_, confidences, _) in found.items()}
