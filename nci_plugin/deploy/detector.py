"""`OODDetector`: a fitted detector with its network's preprocessing and calibration, as an object and as a file."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError, RowError, check_finite, one_line, plain_number
from nci_plugin.deploy import file, images
from nci_plugin.deploy.calibration import CONFIDENCE, POOLED, TPR, Threshold
from nci_plugin.deploy.drift import Drift, drift
from nci_plugin.deploy.fitting import fit_together
from nci_plugin.deploy.module import ScoringModule, scoring_module
from nci_plugin.deploy.network import Marks, check_network, layer_named, layer_of
from nci_plugin.deploy.state import forget_scored
from nci_plugin.detectors.base import Detector
from nci_plugin.features.forward import prepared
from nci_plugin.networks.calling import alone
from nci_plugin.networks.cut import Cut

DEFAULT = "nci_plus"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of n images: predicted classes (n,), scores (n,) (larger = ID), p-values (n,) and whether each is called OOD.

    ``files`` are the paths of images that came as files, in the same order, and empty for all others.
    """

    labels: Tensor
    scores: Tensor
    p_values: Tensor
    is_ood: Tensor
    class_names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> list[str]:
        """The predicted classes by name; by number where nobody named them."""
        return [self.class_names[label] if self.class_names else str(label) for label in self.labels.tolist()]

    def __repr__(self) -> str:
        return f"Predictions({len(self)} images, {int(self.is_ood.sum())} of them OOD)"


class OODDetector:
    """A detector of OOD images beside one classifier: fitted once, saved, loaded, and asked about images.

    Args:
        detector: a name (``nci-ood list``), a YAML file, or a `Detector` with hyper-parameters of your own.
        preprocessing: how image files become the network's input: `Preprocessing`, an entry of torchvision's weights
            or their transforms. None = as the data sets' own transforms say, else as timm's configuration of the
            network says; it stays None where only tensors come.
        class_names: of the network's classes, in order. None = the names of ImageFolder's sub-folders, if there are.
        tpr: the share of ID images to be kept, 0..1, which `predict` decides by.
        by_class: judge an image among the validation images that are predicted as its class (see `Calibration`).
        seed: of the cut of the validation images, and of the draw of ``bank_rows``.
        bank_rows: where a detector keeps the training features (KNN), keep so many, the same share of each class.
        holdout: cut the validation images even where the detector does not look at them, as something else did:
            `recommend` sets it.
        batch_size, workers: of the pass in `fit`. The scores of an image may change with the batch size by rounding.
        head: name of the last linear layer, where it is not found by itself.
        progress: show a progress bar on a terminal in `fit`.
        store: a directory where a pass, of `fit` say, keeps what it has finished of image files: one that was stopped
            goes on from there, and another detector's takes what it needs. It is yours to remove. None = in memory.

    Nothing is computed here. Raises PluginError in `fit` on settings that cannot be used.
    """

    def __init__(
        self,
        detector: str | Path | Detector | type[Detector] = DEFAULT,
        *,
        preprocessing: Any = None,
        class_names: Sequence[str] | None = None,
        tpr: float = TPR,
        by_class: bool = False,
        seed: int = 0,
        bank_rows: int | None = None,
        holdout: bool = False,
        batch_size: int = 200,
        workers: int = 0,
        head: str | None = None,
        progress: bool = True,
        store: str | Path | None = None,
    ) -> None:
        self.detector = detector
        self.preprocessing = preprocessing
        self.class_names = class_names
        self.tpr, self.seed, self.bank_rows = map(plain_number, (tpr, seed, bank_rows))
        self.batch_size, self.workers = map(plain_number, (batch_size, workers))
        self.by_class, self.holdout, self.head, self.progress = by_class, holdout, head, progress
        self.store = store
        self._fitted: file.Fitted | None = None

    # ---------------------------------------------------------------- fit

    def fit(self, model: nn.Module, train: Any, validation: Any) -> OODDetector:
        """Fit on the training images and calibrate on validation images, in one forward pass over both.

        Args:
            model: any classifier that ends in a linear layer, on its device and in any mode; it is left as it is.
            train, validation: images with labels of the model's classes: DataLoaders, Datasets, lists of
                (image, label), ImageFolder directories or `ImageList`. ``validation`` are images that the model was
                *not* trained on, drawn as those that it will meet: on others the guarantee of `predict` means nothing.

        A detector that looks at validation images (``alpha: auto``), or a ``holdout``, is tuned on one half of each
        class of them and calibrated on the other.
        Raises PluginError on data that augment or drop images, on images that are in both, on too few validation
        images, and as `evaluate` does; warns where the network gives most validation images another label than theirs.
        """
        fit_together([self], model, train, validation)
        return self

    def with_detector(self, name: str) -> OODDetector:
        """An unfitted one with the same settings and another detector, which validation images have chosen."""
        settings = {key: getattr(self, key) for key in inspect.signature(type(self)).parameters if key != "detector"}
        return type(self)(name, **{**settings, "holdout": True})

    # ---------------------------------------------------------------- score

    def score(self, source: Any) -> Tensor:
        """Scores (n,) of images, larger = ID, on the CPU.

        ``source``: preprocessed tensors (n, 3, H, W), a Dataset, a DataLoader (whose order is its data set's), a list,
        a PIL image, an image's path, or a directory of images, sorted by their paths in it. Raises PluginError before
        `fit`, on images that cannot be read or give NaN, and where the network's weights have changed since.
        """
        opened = images.open_to_score(source, self.fitted.preprocessing)
        return torch.cat([scores for scores, _ in self._answers(opened)])

    def predict(self, source: Any, tpr: float | None = None) -> Predictions:
        """`Predictions` of images as in `score`; an image is called OOD where its p-value is at most 1 - ``tpr``.

        Of ID images exchangeable with the calibration images at most a share of 1 - ``tpr`` is called OOD, in the
        mean over calibrations. ``tpr`` is that of the constructor if not given.
        """
        tpr = self.fitted.level(tpr)  # what is no TPR is refused before the pass
        opened = images.open_to_score(source, self.fitted.preprocessing)
        scores, labels = (torch.cat(parts) for parts in zip(*self._answers(opened)))
        rows, classes = scores.numpy(), labels.numpy()
        return Predictions(
            labels,
            scores,
            torch.from_numpy(self.fitted.calibration.p_values(rows, classes, tpr)),
            torch.from_numpy(self.fitted.calibration.is_ood(rows, classes, tpr)),
            self.fitted.class_names,
            images.files_of(opened),
        )

    def _answers(self, opened: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Scores (n,) and predicted classes (n,) of batches of images, on the CPU."""
        fitted, first = self._checked(), 0
        cut = Cut(self.model_, layer_named(self.model_, fitted.head, "detector"))
        for batch in images.batches_of(opened, self.batch_size):
            if batch.shape[1:] != fitted.probe.shape:
                raise RowError(
                    f"images: must be {fitted.probe.shape} each, as in fit, got {tuple(batch.shape[1:])}; preprocess"
                    " them as the network's test images, and pass one image as a batch of one"
                )
            with prepared(self.model_) as device:
                features, logits = (each.cpu() for each in cut(batch.to(device)))
                check_finite("images: their features", features, first)
                check_finite("images: their logits", logits, first)
                scores = fitted.detector.score(features, logits)  # alone too: it may keep what it scored
                forget_scored(fitted.detector)
            yield scores, logits.argmax(dim=1)
            first += len(batch)

    # ---------------------------------------------------------------- decide

    def threshold(self, tpr: float | None = None, confidence: float = CONFIDENCE) -> Threshold:
        """The score below which an image is called OOD, with the interval of the TPR that it has on new ID images.

        Raises PluginError on too few calibration samples for ``tpr``, and with ``by_class`` (see `thresholds`).
        """
        if self.fitted.calibration.by_class:
            raise PluginError("threshold: there is one for each class; call thresholds()")
        return self._thresholds(tpr, confidence)[POOLED]

    def thresholds(self, tpr: float | None = None, confidence: float = CONFIDENCE) -> dict[str, Threshold]:
        """The threshold of each predicted class by name; of those without one of their own under ``all others``."""
        names = self.fitted.class_names
        return {
            "all others" if group == POOLED else names[group] if names else str(group): value
            for group, value in self._thresholds(tpr, confidence).items()
        }

    def _thresholds(self, tpr: float | None, confidence: float) -> dict[int, Threshold]:
        return self.fitted.calibration.thresholds(self.fitted.level(tpr), confidence)

    def drift(self, scores: Any, tpr: float | None = None, confidence: float = CONFIDENCE) -> Drift:
        """How a window of scores (m,), of ID images as one hopes, differs from the calibration scores."""
        return drift(self.fitted.calibration, scores, self.fitted.level(tpr), confidence)

    # ---------------------------------------------------------------- keep

    def save(self, path: str | Path) -> Path:
        """Write the detector to one safetensors file, whole or not at all.

        Raises PluginError if it cannot be, and where the network's weights have changed since `fit`.
        """
        fitted, where = self._checked(), file.checked_path(path)
        file.write(fitted, where)
        return where

    @classmethod
    def load(cls, path: str | Path, model: nn.Module) -> OODDetector:
        """Read a detector and join it to the network that it was fitted on; nothing is unpickled.

        The network may be wrapped, compiled, on another device or under another prefix; in another precision it loads
        with a warning. Raises PluginError on another network, and on a damaged file.
        """
        where = f"detector file '{path}'"
        fitted = file.read(file.checked_path(path))
        check_network(model)
        head = layer_of(model, fitted.head, where)
        line = fitted.network.check(model, head, where)
        if line:
            warnings.warn(line, stacklevel=2)
        fitted.probe.check(model, head, where, fitted.network.dtype)
        loaded = cls(
            fitted.detector,
            preprocessing=fitted.preprocessing,
            class_names=fitted.class_names or None,
            **fitted.settings,
        )
        loaded.keep(fitted, model)
        return loaded

    def keep(self, fitted: file.Fitted, model: nn.Module) -> None:
        """Take a fitted detector as one's own, with the network that it belongs to."""
        self._fitted, self.model_, self._marks = fitted, model, Marks(model)

    def _checked(self) -> file.Fitted:
        """What was fitted; raises PluginError where the network has other weights now: trained on, say, or loaded."""
        fitted, where = self.fitted, f"detector '{self.fitted.detector.name}'"
        with alone(self.model_):  # or another thread may have it on another device for a while
            if not self._marks.hold(self.model_):
                marks = Marks(self.model_)  # first: what is trained while the numbers are looked at is seen next time
                line = fitted.network.check(self.model_, layer_of(self.model_, fitted.head, where), where)
                if line:
                    warnings.warn(line, stacklevel=3)
                self._marks = marks
        return fitted

    def module(self, model: nn.Module | None = None, tpr: float | None = None) -> ScoringModule:
        """One nn.Module of network and detector: images -> logits, score, is_ood; see `ScoringModule`."""
        return scoring_module(self.fitted, self.model_ if model is None else model, self.fitted.level(tpr))

    @property
    def fitted(self) -> file.Fitted:
        """What `fit` or `load` left; raises PluginError before either."""
        if self._fitted is None:
            raise PluginError("OODDetector: not fitted; call fit(model, train, validation), or OODDetector.load")
        return self._fitted

    def __repr__(self) -> str:
        if self._fitted is None:
            return f"OODDetector({self.detector!r}, not fitted)"
        fitted = self._fitted
        values = ", ".join(f"{name}={value}" for name, value in fitted.detector.get_hyperparameters().items())
        rows, by_class = fitted.rows, ", by predicted class" if fitted.calibration.by_class else ""
        cut = f", {rows['validation_fit']} more validation images tuned it" if rows["validation_fit"] else ""
        return one_line(  # of a name and values that a file may have given
            f"OODDetector({fitted.detector.name}({values}) on {fitted.network.name}, {rows['train']} training images,"
            f" calibrated on {len(fitted.calibration)} ID validation samples{by_class}{cut}, TPR"
            f" {100 * fitted.settings['tpr']:g} %)"
        )


def settings_of(like: OODDetector | None) -> OODDetector:
    """An OODDetector whose settings count, the defaults for None; raises PluginError on anything else."""
    if not isinstance(like, (OODDetector, type(None))):
        raise PluginError(f"like: must be an OODDetector with the settings that count, got {type(like).__name__}")
    return like or OODDetector()


__all__ = ["OODDetector", "Predictions", "Threshold"]
