"""Detectors of out-of-distribution (OOD) samples that read neural collapse: NCI, NECO and others.

A detector gives each sample a score, larger for samples like those that the classifier was trained on
(in-distribution, ID). All of them read what one pass of the images through the network leaves: the penultimate
features, the logits and the last linear layer. `evaluate` is the whole way from a network and a `Benchmark` to scores
and metrics:

>>> import torch
>>> from nci_plugin import Benchmark, Features, LinearHead, evaluate
>>> train = Features(torch.tensor([[4.0, 0.0], [5.0, 1.0], [0.0, 4.0], [1.0, 5.0]]), torch.tensor([0, 0, 1, 1]))
>>> others = Features(torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
>>> benchmark = Benchmark.from_splits("mine", 2, train=train, test=train, near={"others": others}, far={})
>>> head = LinearHead(torch.eye(2), torch.zeros(2))                     # or a network, where splits are images
>>> evaluation = evaluate(head, benchmark, ["nci", "msp"], progress=False)
>>> [(result.detector, result.dataset, result.auroc) for result in evaluation.results]
[('nci', 'others', 100.0), ('nci', 'nearood', 100.0), ('msp', 'others', 100.0), ('msp', 'nearood', 100.0)]

What else there is:

* `Benchmark`, `ImageList`, `Preprocessing`, `Features`: what is evaluated.
* `Detector`, `FitsOn`, `Paper`: the base class of a detector of yours, and what such a class says of itself.
  `nci_plugin.detectors` has those of this package.
* `register_detector`, `DetectorSetup`: a detector by name, and with values to search. `nci_plugin.testing` tests one.
* `ClassStatistics`, `LinearHead`: what a detector is fitted on.
* `OODDetector`: a fitted detector beside one classifier, with thresholds that hold, as a file and for a service.
* `recommend`: which detector for a network, without OOD images.
* `diagnose`: neural collapse of a network and of OOD images against it, in numbers, sentences and figures.
* `explain`: how one image stands to the training set of a network.
* `CollapseMonitor`, and `nci_plugin.collapse.measure`: neural collapse in numbers, during training or afterwards.
* `figure`: a figure of stored results, diagnoses or trainings, for a paper or a slide.
* `register_with_openood`: the detectors as postprocessors of OpenOOD v1.5.
* `PluginError`: raised on input that cannot be used, with one line that says what to do.

The command line is ``nci-ood``, or ``python -m nci_plugin``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers: the names of _PUBLIC, which are imported when they are first used
    from nci_plugin.api import evaluate as evaluate
    from nci_plugin.benchmarks.benchmark import Benchmark as Benchmark
    from nci_plugin.benchmarks.benchmark import Features as Features
    from nci_plugin.benchmarks.decoding import Preprocessing as Preprocessing
    from nci_plugin.benchmarks.image_list import ImageList as ImageList
    from nci_plugin.checks import PluginError as PluginError
    from nci_plugin.deploy.choice import recommend as recommend
    from nci_plugin.deploy.detector import OODDetector as OODDetector
    from nci_plugin.deploy.inspection import diagnose as diagnose
    from nci_plugin.deploy.inspection import explain as explain
    from nci_plugin.detectors.base import Detector as Detector
    from nci_plugin.detectors.base import Paper as Paper
    from nci_plugin.detectors.registry import register_detector as register_detector
    from nci_plugin.dynamics.monitor import CollapseMonitor as CollapseMonitor
    from nci_plugin.evaluation.search import DetectorSetup as DetectorSetup
    from nci_plugin.features.bank import FitsOn as FitsOn
    from nci_plugin.features.statistics import ClassStatistics as ClassStatistics
    from nci_plugin.networks.head import LinearHead as LinearHead
    from nci_plugin.registration import on_device as on_device
    from nci_plugin.registration import register as register
    from nci_plugin.registration import register_with_openood as register_with_openood
    from nci_plugin.report.paper import figure as figure

__version__ = "0.2.0"

_PUBLIC = {
    "evaluate": "nci_plugin.api",
    "register": "nci_plugin.registration",
    "register_with_openood": "nci_plugin.registration",
    "on_device": "nci_plugin.registration",
    "Benchmark": "nci_plugin.benchmarks.benchmark",
    "Features": "nci_plugin.benchmarks.benchmark",
    "ImageList": "nci_plugin.benchmarks.image_list",
    "Preprocessing": "nci_plugin.benchmarks.decoding",
    "ClassStatistics": "nci_plugin.features.statistics",
    "LinearHead": "nci_plugin.networks.head",
    "Detector": "nci_plugin.detectors.base",
    "OODDetector": "nci_plugin.deploy.detector",
    "recommend": "nci_plugin.deploy.choice",
    "diagnose": "nci_plugin.deploy.inspection",
    "explain": "nci_plugin.deploy.inspection",
    "Paper": "nci_plugin.detectors.base",
    "FitsOn": "nci_plugin.features.bank",
    "DetectorSetup": "nci_plugin.evaluation.search",
    "register_detector": "nci_plugin.detectors.registry",
    "CollapseMonitor": "nci_plugin.dynamics.monitor",
    "figure": "nci_plugin.report.paper",
    "PluginError": "nci_plugin.checks",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``nci-ood --help`` needs no torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
