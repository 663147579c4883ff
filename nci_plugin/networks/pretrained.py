"""torchvision's ImageNet weights by OpenOOD's names, with the preprocessing that belongs to them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from nci_plugin.checks import PluginError, did_you_mean
from nci_plugin.networks.checkpoints import read_state_dict
from nci_plugin.networks.named import torchvision_names

logger = logging.getLogger(__name__)

DEFAULT_ARCH = "resnet50"
OPENOOD_NAMES = {"swin-t": "swin_t", "vit-b-16": "vit_b_16", "regnet": "regnet_y_16gf"}
"""Where OpenOOD's name of an architecture is not torchvision's."""

OPENOOD_WEIGHTS = {"regnet": "IMAGENET1K_SWAG_E2E_V"}
WEIGHTS = "IMAGENET1K_V"


def torchvision_name(arch: str) -> str:
    """torchvision's name of an architecture named by OpenOOD or by torchvision; raises PluginError on any other."""
    name = OPENOOD_NAMES.get(arch, arch)
    known = torchvision_names()
    if name not in known:
        hint = did_you_mean(arch, [*OPENOOD_NAMES, *known])
        allowed = ", ".join([DEFAULT_ARCH, *OPENOOD_NAMES])
        raise PluginError(f"--arch '{arch}': must be {allowed} or a classifier of torchvision's{hint}")
    return name


@dataclass(frozen=True)
class TorchvisionWeights:
    """``entry`` of torchvision's weights: version ``version`` of an architecture, as OpenOOD picks them."""

    arch: str
    version: int
    entry: WeightsEnum

    @classmethod
    def of(cls, arch: str, version: int) -> TorchvisionWeights:
        """Find the weights; raises PluginError if there are none of this architecture or version."""
        name = torchvision_name(arch)
        entries = torchvision.models.get_model_weights(name)
        wanted = f"{OPENOOD_WEIGHTS.get(arch, WEIGHTS)}{version}"
        if wanted not in entries.__members__:
            there = ", ".join(entry.name for entry in entries)
            raise PluginError(f"--tvs-version {version}: torchvision has no {wanted} of {name}; it has {there}")
        return cls(arch, version, entries[wanted])

    @property
    def run_name(self) -> str:
        """What OpenOOD calls the directory of the results, behind the name of the benchmark."""
        return f"{self.arch}_tvsv{self.version}_base_default"

    def check(self, benchmark: str, num_classes: int) -> None:
        """Raise PluginError if the benchmark has other classes than the weights."""
        classes = len(self.entry.meta["categories"])
        if num_classes != classes:
            raise PluginError(
                f"--tvs-pretrained: torchvision's weights are for the {classes} classes of ImageNet, benchmark"
                f" '{benchmark}' has {num_classes}; pass --arch {self.arch} --ckpt-path FILE"
            )

    def fetch(self) -> Path:
        """The file of the weights in the cache of torch.hub, downloaded and checked against its hash if it is missing.

        Raises PluginError if the file cannot be downloaded, or if it holds anything but tensors.
        """
        url = self.entry.url
        file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
        if not file.exists():
            logger.info("downloading %s", url)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), file.stem.rpartition("-")[2])
            except Exception as error:  # of the connection, of the disk or of the hash
                raise PluginError(
                    f"weights '{self.entry}': cannot be downloaded ({error}); fetch {url} and lay it at {file}, or pass"
                    f" it with --arch {self.arch} --ckpt-path FILE, with the benchmark's own preprocessing"
                ) from error
        try:
            read_state_dict(file)
        except PluginError as error:
            raise PluginError(f"weights '{self.entry}': {error}; delete that file") from None
        return file

    def network(self) -> nn.Module:
        """The network with the weights, which `fetch` has laid into the cache."""
        return torchvision.models.get_model(torchvision_name(self.arch), weights=self.entry)
