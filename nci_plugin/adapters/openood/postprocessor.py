"""Every detector of this package as a postprocessor of OpenOOD. Importing this module imports openood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from openood.postprocessors.base_postprocessor import BasePostprocessor
from openood.utils import comm
from openood.utils.config import Config
from torch import Tensor, nn
from tqdm.auto import tqdm

from nci_plugin.adapters.openood.training_pass import features_of, training_pass
from nci_plugin.checks import PluginError
from nci_plugin.detectors.base import Training
from nci_plugin.evaluation.configuration import parse_detector
from nci_plugin.evaluation.contestant import check_scores
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.fingerprint import weights_digest
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.calling import device_of
from nci_plugin.networks.cut import Cut
from nci_plugin.networks.head import LinearHead
from nci_plugin.rows import whole_labels


class DetectorPostprocessor(BasePostprocessor):
    """One of this package's detectors, of which ``config.postprocessor`` gives the name and the hyper-parameters.

    It runs on any classifier that ends in a linear layer, on the device where the network is. ``config`` has the shape
    of OpenOOD's YAML files; an unknown key is a PluginError that begins with ``where``.

    What it learned is in ``detector``; of the network it keeps the name of its head and the hash of its weights, so
    that its pickle is small and the numbers of one network are never used for another: `setup` on other weights learns
    again, and asks for another search.
    """

    def __init__(self, config: Config, where: str = "config of a postprocessor") -> None:
        super().__init__(config)
        raw = _plain(config.postprocessor)
        setup = parse_detector(raw, where)
        self.detector, self.name = setup.detector, setup.name
        self.args_dict: dict[str, Sequence[Any]] = dict(raw.get("postprocessor_sweep") or {})
        self.APS_mode: bool = raw.get("APS_mode", False)
        if self.APS_mode and not self.args_dict:
            raise PluginError(f"{where}: APS_mode is True, but postprocessor_sweep has no list; add one")
        self.setup_flag = False
        self.hyperparam_search_done = False
        self.head_name: str | None = None
        self.weights: str | None = None
        self._fitted_on: tuple[Training, LinearHead, FeatureSplit | None] | None = None

    # ---------------------------------------------------------------- fit

    def setup(self, net: nn.Module, id_loader_dict: Mapping[str, Any], ood_loader_dict: Any) -> None:
        """Fit on ``id_loader_dict["train"]``, unless that was done with these weights; leaves the network in eval mode.

        Postprocessors that are set up on the same network and training images share one pass over them. A detector that
        calibrates on ID validation images passes those of ``id_loader_dict["val"]`` too; none reads OOD images.
        """
        net.eval()
        weights = weights_digest(net)
        if self.setup_flag and self.weights == weights:
            return
        if self.weights not in (None, weights):
            self.hyperparam_search_done = False
        self.detector, self.head_name, self._fitted_on = self.detector.clone(), None, None
        if self.detector.fits_on is not FitsOn.NOTHING or self.detector.needs_validation:
            training, head, validation = self._learned_from(net, id_loader_dict)
            self.detector.fit(training, head, validation)
            if self.detector.fit_reads:  # to fit again when the search changes what fit reads
                self._fitted_on = training, head, validation
        self.weights = weights
        self.setup_flag = True

    def _learned_from(
        self, net: nn.Module, loaders: Mapping[str, Any]
    ) -> tuple[Training, LinearHead, FeatureSplit | None]:
        """What the detector fits on, from the passes that it needs; the name of the head is kept."""
        training = validation = head = None
        if self.detector.fits_on is not FitsOn.NOTHING:
            done = training_pass(net, self._loader("train", loaders), self.detector.fits_on is FitsOn.BANK)
            training, head, self.head_name = done.training(self.detector.fits_on), done.head, done.head_name
        if self.detector.needs_validation:
            forward, validation = features_of(net, self._loader("val", loaders), self.head_name)
            head, self.head_name = forward.head, forward.cut.head_name
        assert head is not None
        return training, head, validation

    def _loader(self, name: str, loaders: Mapping[str, Any]) -> Any:
        if name not in loaders:
            of = {"train": "training", "val": "ID validation"}[name]
            raise PluginError(f"postprocessor '{self.detector.name}': needs the loader of the {of} images, '{name}'")
        return loaders[name]

    # ---------------------------------------------------------------- score

    @torch.no_grad()
    def postprocess(self, net: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted classes (n,) and scores (n,), larger = ID, of a batch of images on the network's device."""
        features, logits = self._cut(net, data)(data)
        scores = self.detector.score(features.cpu(), logits.cpu())
        return logits.argmax(dim=1), scores.to(logits.device)

    def inference(
        self, net: nn.Module, data_loader: Any, progress: bool = True
    ) -> tuple[NDArray[np.int_], NDArray[np.floating], NDArray[np.int_]]:
        """Predictions, scores and labels (n,) of OpenOOD's batches; raises PluginError on NaN or infinite scores."""
        device = device_of(net)
        answers = []
        for batch in tqdm(data_loader, disable=not progress or not comm.is_main_process()):
            predicted, conf = self.postprocess(net, batch["data"].to(device))
            targets = whole_labels("labels of the loader", batch["label"], len(predicted))
            answers.append((predicted.cpu(), conf.cpu(), targets))
        predictions, scores, labels = (torch.cat(parts).numpy() for parts in zip(*answers))
        check_scores(scores, self.detector.name, self.detector.get_hyperparameters())
        return predictions.astype(int), scores, labels.astype(int)

    def _cut(self, net: nn.Module, data: Tensor) -> Cut:
        """The network at its head, which a detector that needs no training images looks for on its first batch."""
        if self.head_name is not None:
            return Cut(net, self.head_name)
        if not self.setup_flag:
            raise PluginError(f"postprocessor '{self.detector.name}': not set up; call setup before postprocess")
        cut = Cut.of(net, data)
        self.detector.fit(None, cut.head)
        self.head_name = cut.head_name
        return cut

    # ---------------------------------------------------------------- hyper-parameters

    def set_hyperparam(self, hyperparam: Sequence[Any]) -> None:
        """Change the hyper-parameters that are searched, in the order of the sweep; without a sweep, all of them.

        Without a sweep the last ones may be left out, and stay: a detector may get another option at the end.
        What was fitted with other values is fitted again at once, from the statistics of `setup`. Those are not in a
        pickle: a postprocessor that comes from one asks for `setup` again.
        """
        names = self._searched()
        if len(hyperparam) > len(names) or len(hyperparam) < (len(names) if self.args_dict else min(1, len(names))):
            raise PluginError(
                f"postprocessor '{self.detector.name}': set_hyperparam takes a list of {', '.join(names) or 'nothing'},"
                f" got {list(hyperparam)}"
            )
        before = self._read_by_fit()
        self.detector.set_hyperparameters(**dict(zip(names, hyperparam)))
        if not self.setup_flag or self._read_by_fit() == before:
            return
        if self._fitted_on is not None:
            self.detector.fit(*self._fitted_on)
        else:
            self.detector, self.head_name, self.setup_flag = self.detector.clone(), None, False

    def get_hyperparam(self) -> Any:
        """The value of the hyper-parameter that is searched; a list where there are several."""
        values = [getattr(self.detector, name) for name in self._searched()]
        return values[0] if len(values) == 1 else values

    def _searched(self) -> tuple[str, ...]:
        swept = tuple(key[: -len("_list")] for key in self.args_dict)
        return swept or self.detector.hyperparameter_names()

    def _read_by_fit(self) -> list[Any]:
        return [getattr(self.detector, name) for name in self.detector.fit_reads]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_fitted_on": None}


def make_postprocessor(name: str, **hyperparameters: Any) -> DetectorPostprocessor:
    """A postprocessor with these hyper-parameters, which are not searched: ``Evaluator(postprocessor=...)`` takes it.

    Every detector can be had so, also those whose names are OpenOOD's own. Raises PluginError on an unknown name or
    hyper-parameter.
    """
    config = Config({"postprocessor": {"name": name, "APS_mode": False, "postprocessor_args": hyperparameters}})
    return DetectorPostprocessor(config, f"postprocessor '{name}'")


def _plain(config: Any) -> Any:
    """A Config as the nested dictionaries that it was read from."""
    return config.__getstate__() if isinstance(config, Config) else config
