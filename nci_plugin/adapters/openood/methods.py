"""Which of OpenOOD's own postprocessors can be used, and on what: `openood:knn` and the like.

Most read only what one forward pass leaves: they are replayed on stored features and give the scores, hyper-parameters
and tables of OpenOOD's evaluator on the images. A few need the images themselves and run through the network again.
The rest score networks of another training. `METHODS` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nci_plugin.checks import PluginError, check_known
from nci_plugin.parsing import load_yaml

if TYPE_CHECKING:  # torch, which the names of the methods do without
    from nci_plugin.benchmarks.benchmark import Benchmark
    from nci_plugin.evaluation.contestant import Answers
    from nci_plugin.features.bank import FeatureBank, FitsOn

PREFIX = "openood:"
GROUPS = {f"{PREFIX}all": False, f"{PREFIX}images": True}
"""Names that stand for several methods, and whether those need the images."""


@dataclass(frozen=True)
class Needs:
    """What a registered postprocessor of OpenOOD needs: the images, the training split, or other networks."""

    images: bool = False
    training: bool = True
    excluded: str = ""

    def __str__(self) -> str:
        if self.excluded:
            return f"cannot be used: it {self.excluded}"
        if self.images:
            return "runs the network on the images again" + (", training images too" if self.training else "")
        return f"replayed on stored features{' of the training split too' if self.training else ''}"


_TRAINING = Needs()
_LOGITS = Needs(training=False)
_IMAGES = Needs(images=True, training=False)
_TRAINING_IMAGES = Needs(images=True)
_ANOMALIES = Needs(excluded="needs a network of anomaly detection")


METHODS = {
    **dict.fromkeys(("msp", "mls", "ebo", "gen", "temp_scaling", "klm", "gradnorm"), _LOGITS),
    **dict.fromkeys(("react", "ash", "scale", "vra", "residual", "dropout"), _LOGITS),
    **dict.fromkeys(("nci", "knn", "vim", "mds", "rmds", "she"), _TRAINING),
    **dict.fromkeys(("dice", "fdbd", "nnguide", "relation", "openmax", "cfood"), _TRAINING),
    **dict.fromkeys(("odin", "iodin", "rankfeat", "adascale_a", "adascale_l"), _IMAGES),
    **dict.fromkeys(("mds_ensemble", "gram"), _TRAINING_IMAGES),
    "cider": Needs(excluded="needs a network trained with its loss and projection head (CIDER)"),
    "npos": Needs(excluded="needs a network trained with its loss and projection head (NPOS)"),
    "reweightood": Needs(excluded="needs a network trained with its loss and projection head (ReweightOOD)"),
    "ssd": Needs(excluded="needs a network trained by self-supervision (SSD)"),
    "conf_branch": Needs(excluded="needs a network trained with a confidence branch"),
    "godin": Needs(excluded="needs a network trained with its decomposed head (G-ODIN)"),
    "mcd": Needs(excluded="needs a network trained with two classifiers"),
    "mos": Needs(excluded="needs a network trained with grouped softmax"),
    "rotpred": Needs(excluded="needs a network trained to predict rotations"),
    "t2fnorm": Needs(excluded="needs a network trained with normalised features (T2FNorm)"),
    "ensemble": Needs(excluded="needs several networks"),
    "opengan": Needs(excluded="needs a discriminator trained with it"),
    **dict.fromkeys(("cutpaste", "draem", "dsvdd", "patchcore", "rd4ad"), _ANOMALIES),
    "gmm": Needs(excluded="fails in OpenOOD's evaluator: it turns scores into arrays that still carry gradients"),
    "grood": Needs(excluded="fails in OpenOOD: its setup reads an attribute that it never sets"),
}
"""Every postprocessor of OpenOOD's evaluation API, in the order in which ``openood:all`` runs them."""


WRITTEN = {
    "ebo": "Energy",
    "temp_scaling": "TempScale",
    "gradnorm": "GradNorm",
    "react": "ReAct",
    "residual": "Residual",
    "dropout": "Dropout",
    "vim": "ViM",
    "fdbd": "fDBD",
    "nnguide": "NNGuide",
    "relation": "Relation",
    "openmax": "OpenMax",
    "rankfeat": "RankFeat",
    "adascale_a": "AdaSCALE-A",
    "adascale_l": "AdaSCALE-L",
    "mds_ensemble": "MDS ensemble",
    "gram": "Gram",
    "reweightood": "ReweightOOD",
    "conf_branch": "ConfBranch",
    "godin": "G-ODIN",
    "rotpred": "RotPred",
    "t2fnorm": "T2FNorm",
    "ensemble": "Ensemble",
    "opengan": "OpenGAN",
    "cutpaste": "CutPaste",
    "dsvdd": "Deep SVDD",
    "patchcore": "PatchCore",
}
"""Methods that are not written as their name in capitals."""


@dataclass(frozen=True)
class OpenOODMethod:
    """A postprocessor of OpenOOD with the YAML of its checkout, as one of the detectors that `evaluate_bank` takes."""

    method: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.method}"

    @property
    def needs(self) -> Needs:
        return METHODS.get(self.method, _TRAINING)

    @property
    def configured(self) -> Mapping[str, Any]:
        """The ``postprocessor_args`` of OpenOOD's YAML."""
        return self.config.get("postprocessor_args") or {}

    @property
    def detector(self) -> None:
        """None: it scores whole benchmarks, as OpenOOD's evaluator does."""

    @property
    def fits_on(self) -> FitsOn:
        from nci_plugin.features.bank import FitsOn

        return FitsOn.BANK if self.needs.training and not self.needs.images else FitsOn.NOTHING

    @property
    def sweep(self) -> Mapping[str, Sequence[Any]]:
        """The lists that OpenOOD's YAML asks to search."""
        if not self.config.get("APS_mode"):
            return {}
        lists = self.config["postprocessor_sweep"]
        return {name.removesuffix("_list"): values for name, values in lists.items()}

    def answer(self, bank: FeatureBank, benchmark: Benchmark, splits: Sequence[str]) -> Answers:
        """Set up, search and score as OpenOOD's evaluator does; raises PluginError if that gives no ranking."""
        from nci_plugin.adapters.openood.runner import run

        return run(self, bank, benchmark, splits)


def display(name: str) -> str:
    """The method ``openood:NAME`` as papers write it."""
    method = name.removeprefix(PREFIX)
    return f"{WRITTEN.get(method, method.upper())} (OpenOOD)"


def names(images: bool = False) -> list[str]:
    """Names of the methods that are replayed on features, or of those that need the ``images``."""
    return [f"{PREFIX}{name}" for name, needs in METHODS.items() if not needs.excluded and needs.images == images]


def describe() -> dict[str, str]:
    """What can be done with every method of OpenOOD, by its name here."""
    return {f"{PREFIX}{name}": str(needs) for name, needs in METHODS.items()}


def load(name: str) -> list[OpenOODMethod]:
    """The method ``openood:NAME``; ``openood:all`` = every replayed one, ``openood:images`` = those that need images.

    Raises PluginError if there is no OpenOOD, on unknown and on excluded methods.
    """
    from nci_plugin.adapters.openood.checkout import import_openood

    root = import_openood()
    if name in GROUPS:
        return [found for each in names(images=GROUPS[name]) for found in load(each)]
    from openood.evaluation_api.postprocessor import postprocessors

    method = name.removeprefix(PREFIX)
    method = "nci" if method == "nci_builtin" else method
    check_known("detector", name, [*(f"{PREFIX}{each}" for each in postprocessors), *GROUPS])
    if METHODS.get(method, _TRAINING).excluded:
        raise PluginError(f"detector '{name}': cannot be used here, it {METHODS[method].excluded}")
    return [OpenOODMethod(method, read_config(root, method))]


def read_config(root: Path, method: str) -> Mapping[str, Any]:
    """OpenOOD's YAML of a method; raises PluginError if its checkout has none."""
    for ending in (".yml", ".yaml"):  # one of OpenOOD's files has the other ending, which its own reader refuses
        path = root / "configs" / "postprocessors" / f"{method}{ending}"
        if path.is_file():
            return load_yaml(path)["postprocessor"]
    raise PluginError(f"detector '{PREFIX}{method}': there is no '{path.with_suffix('.yml')}'; complete the checkout")
