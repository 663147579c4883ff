"""What OpenOOD's postprocessors see in place of a network and its loaders: stored features and logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nci_plugin.checks import PluginError
from nci_plugin.features.split import FeatureSplit
from nci_plugin.networks.head import LinearHead


class NeedsImages(PluginError):
    """A method asked for more than one forward pass leaves: gradients by the image, or feature maps."""


class StandIn(nn.Module):
    """Answers as OpenOOD's networks do, of which only the head is there.

    Its images are batches of `stored_batches`: tensors (n, P + K) that hold features and logits side by side, so that
    OpenOOD's ``.cuda()`` and ``.float()`` pass through. Every answer is a copy, since some methods write into it.
    """

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.feature_size = head.num_features
        self.fc = nn.utils.skip_init(nn.Linear, head.num_features, head.num_classes)
        self.fc.load_state_dict({"weight": head.weight, "bias": head.bias})

    def forward(self, x: Tensor, return_feature: bool = False, return_feature_list: bool = False) -> Any:
        if x.requires_grad:
            raise NeedsImages("it needs gradients by the image")
        features, logits = x[:, : self.feature_size].clone(), x[:, self.feature_size :].clone()
        if return_feature:
            return logits, features
        return (logits, _FeatureList(features)) if return_feature_list else logits

    def forward_threshold(self, x: Tensor, threshold: float) -> Tensor:
        _, features = self(x, return_feature=True)
        return self.fc(features.clip(max=threshold))

    def intermediate_forward(self, x: Tensor, layer_index: int | None = None) -> Tensor:
        raise NeedsImages("it needs feature maps")

    def get_fc(self) -> tuple[Any, Any]:
        return self.fc.weight.detach().cpu().numpy(), self.fc.bias.detach().cpu().numpy()

    def get_fc_layer(self) -> nn.Linear:
        return self.fc


class _FeatureList(Sequence):
    """The feature maps of all stages, of which only the last, pooled one (n, P, 1, 1) is there, as index -1."""

    def __init__(self, features: Tensor) -> None:
        self._last = features[:, :, None, None]

    def __getitem__(self, index: Any) -> Any:
        if index == -1:
            return self._last
        raise NeedsImages("it needs feature maps")

    def __len__(self) -> int:
        raise NeedsImages("it needs feature maps")


def stored_batches(split: FeatureSplit, batch_size: int) -> DataLoader:
    """A loader of a stored split, in OpenOOD's form: dictionaries with ``data``, ``label`` and ``index``, in order."""
    return DataLoader(_StoredRows(split), batch_size, shuffle=False, collate_fn=lambda batch: batch)


class _StoredRows(Dataset):
    """Rows of a split, a batch of consecutive ones at a time."""

    def __init__(self, split: FeatureSplit) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = self.split.rows(indices[0], indices[-1] + 1)
        data = torch.cat([rows.features, rows.logits], dim=1)
        return {"data": data, "label": rows.labels.clone(), "index": torch.tensor(indices)}
