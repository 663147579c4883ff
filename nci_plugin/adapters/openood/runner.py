"""One postprocessor of OpenOOD, run as its evaluator runs it: set up, searched on validation, and asked for scores."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nci_plugin.adapters.openood.device import cuda_on
from nci_plugin.adapters.openood.methods import OpenOODMethod
from nci_plugin.adapters.openood.replay import StandIn, stored_batches
from nci_plugin.benchmarks.benchmark import FAR, NEAR, OOD_VALIDATION, TEST, TRAIN, VALIDATION, Benchmark, Split
from nci_plugin.benchmarks.opening import collate
from nci_plugin.checks import PluginError
from nci_plugin.detectors.mahalanobis import class_means, means_differ
from nci_plugin.evaluation.alternatives import Alternatives
from nci_plugin.evaluation.contestant import Answers, check_ranking, check_scores
from nci_plugin.evaluation.search import Timer, choose, not_searched
from nci_plugin.features.bank import FeatureBank
from nci_plugin.features.forward import prepared
from nci_plugin.metrics import auroc
from nci_plugin.networks.calling import random_states_kept

SEED = 0
"""Of the random numbers that some methods draw in their setup or while they score."""

WRAPPERS = {
    "react": "react_net.ReactNet",
    "ash": "ash_net.ASHNet",
    "scale": "scale_net.ScaleNet",
    "adascale_a": "adascale_net.AdaScaleANet",
    "adascale_l": "adascale_net.AdaScaleLNet",
}
"""The networks that OpenOOD's evaluator puts around a classifier for some methods."""

MAGNITUDES = {"knn": 1.0}
"""`Detector.magnitude` of methods whose scores are differences of larger numbers: vectors of length 1."""

Loader = Callable[[str], DataLoader]


def run(asked: OpenOODMethod, bank: FeatureBank, benchmark: Benchmark, splits: Sequence[str]) -> Answers:
    """Scores of ``splits`` by one of OpenOOD's postprocessors, configured and searched by its YAML.

    Raises PluginError on scores that are not finite, or the same for all samples; of methods in `MAGNITUDES` also on
    those that differ by rounding. The others' scores stand as OpenOOD's evaluator ranks them.
    """
    timer, method, sweep = Timer(), asked.method, asked.sweep
    if method == "rmds" and not means_differ(class_means(bank.splits[TRAIN], benchmark.num_classes)):
        raise PluginError(f"detector '{asked.name}': all classes have the same mean, so that every score is 0")
    with contextlib.ExitStack() as stack:
        network, loader, available, device = stack.enter_context(_source(bank, asked.needs.images))
        stack.enter_context(_host(benchmark, device))
        postprocessor = _construct(method, asked.config, benchmark)
        network = _wrapped(method, network)
        seed()
        with timer("fit"):
            postprocessor.setup(network, *_loader_dicts(loader, available))
        hyperparameters = dict(asked.configured)
        # Where the images are passed again for every value, those of the test sets would be too.
        alternatives = None if asked.needs.images else Alternatives(bank.splits)

        def inferred(batches: DataLoader) -> NDArray[np.floating]:
            _, confidences, _ = postprocessor.inference(network, batches, progress=False)
            return check_scores(np.reshape(confidences, -1), asked.name, hyperparameters)

        def scores(split: str) -> NDArray[np.floating]:
            return inferred(loader(split))

        def validate(values: Mapping[str, Any]) -> float:
            hyperparameters.update(values)
            with timer("search"):
                postprocessor.set_hyperparam(list(values.values()))
                id_scores = scores(VALIDATION)
                validated = auroc(id_scores, scores(OOD_VALIDATION))
            if alternatives is not None:
                with random_states_kept():  # what OpenOOD draws next is what it would have drawn
                    alternatives.add(
                        values, id_scores, validated, lambda split: inferred(stored_batches(split, bank.batch_size))
                    )
            return validated

        chosen_by = not_searched(sweep, available)
        if sweep and {VALIDATION, OOD_VALIDATION} <= set(available):
            best, chosen_by = choose(asked.name, sweep, validate)
            hyperparameters.update(best)
            postprocessor.set_hyperparam(list(best.values()))
        with timer("score"):
            by_split = {split: scores(split) for split in splits}
    if len({float(value) for each in by_split.values() for value in (each.min(), each.max())}) == 1:
        raise PluginError(f"detector '{asked.name}': gave every sample the same score with {hyperparameters}")
    if method in MAGNITUDES:
        check_ranking(by_split, asked.name, hyperparameters, MAGNITUDES[method])
    others = alternatives.record() if alternatives is not None else {}
    return Answers(by_split, hyperparameters, chosen_by, timer.seconds, alternatives=others)


@contextlib.contextmanager
def _source(bank: FeatureBank, needs_images: bool) -> Iterator[tuple[nn.Module, Loader, Sequence[str], torch.device]]:
    """What takes the network's place, loaders of its splits, their names, and the device of both."""
    if not needs_images:
        on_gpu = str(bank.provenance.get("device", "")).startswith("cuda")
        device = torch.device(bank.provenance["device"] if on_gpu else "cpu")
        network = StandIn(bank.head).to(device).eval()
        yield network, lambda split: stored_batches(bank.splits[split], bank.batch_size), list(bank.splits), device
        return
    images = bank.images
    if images is None:
        raise PluginError("it needs the images, and this benchmark has features only")

    def loader(split: str) -> DataLoader:
        return DataLoader(images.splits[split], bank.batch_size, num_workers=images.workers, collate_fn=_dictionary)

    with prepared(images.network, images.device):
        try:
            yield images.network, loader, list(images.splits), images.device
        finally:
            images.network.zero_grad(set_to_none=True)


def _dictionary(items: list[Any]) -> dict[str, Tensor]:
    """A batch in OpenOOD's form."""
    batch = collate(items)
    if isinstance(batch, PluginError):
        raise batch
    images, labels = batch
    return {"data": images, "data_aux": images.clone(), "label": labels}


@contextlib.contextmanager
def _host(benchmark: Benchmark, device: torch.device) -> Iterator[None]:
    """What OpenOOD takes for granted: a GPU, its own data sets, gradients, and a terminal to itself."""
    from openood.postprocessors.info import num_classes_dict

    known = mock.patch.dict(num_classes_dict, {benchmark.name: benchmark.num_classes})
    quiet = io.StringIO()
    silent = contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet)
    with cuda_on(device), known, random_states_kept(), torch.enable_grad(), silent[0], silent[1]:
        yield


def seed() -> None:
    """Seed every generator that OpenOOD's methods draw from."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    random.seed(SEED)


def _construct(method: str, config: Mapping[str, Any], benchmark: Benchmark) -> Any:
    """As OpenOOD's ``get_postprocessor``, whose reader of YAML files would fetch a missing one from the internet."""
    from openood.evaluation_api.postprocessor import postprocessors
    from openood.utils.config import Config

    size = benchmark.preprocessing.img_size if benchmark.preprocessing else None
    data_set = {"name": benchmark.name, "num_classes": benchmark.num_classes, "image_size": size}
    original = postprocessors.get(f"{method}_builtin", postprocessors[method])  # where the plugin took its name
    postprocessor = original(Config({"postprocessor": dict(config), "dataset": data_set}))
    postprocessor.APS_mode = bool(config.get("APS_mode"))
    postprocessor.hyperparam_search_done = False
    return postprocessor


def _wrapped(method: str, network: nn.Module) -> nn.Module:
    if method not in WRAPPERS:
        return network
    module, name = WRAPPERS[method].split(".")
    return getattr(importlib.import_module(f"openood.networks.{module}"), name)(network)


class _Loaders(dict):
    def __missing__(self, key: str) -> Any:
        raise PluginError(f"it needs the split '{key}', which the benchmark does not have")


def _loader_dicts(loader: Loader, available: Sequence[str]) -> tuple[_Loaders, _Loaders]:
    """The two dictionaries of loaders that OpenOOD hands to ``setup``."""
    single = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    id_loaders = _Loaders({key: loader(split) for key, split in single.items() if split in available})
    ood_loaders = _Loaders({"val": loader(OOD_VALIDATION)} if OOD_VALIDATION in available else {})
    for group in (NEAR, FAR):
        ood_loaders[group] = {
            Split.parse(split).name: loader(split) for split in available if split.startswith(f"{group}/")
        }
    return id_loaders, ood_loaders
