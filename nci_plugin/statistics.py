"""What detectors and collapse metrics need to know of the training features, without keeping the features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_labels, check_width

BUFFER_ROWS = 4096
"""Rows collected before they are merged: a merge then costs little more than the matrix product of its rows."""


class ClassStatistics:
    """Counts, means and pooled within-class scatter of K classes of P-dimensional features, in float64.

    The state is n_k, mu_k, S_W = sum_i (h_i - mu_{y_i})(h_i - mu_{y_i})^T, the trace of each class's own scatter and
    the sums of the norms ||h||_1 and ||h||_2 of each class. It is merged pairwise (Chan, Golub & LeVeque 1983), so
    that batches, shards and shuffled orders agree to rounding and nothing cancels when the mean is large against the
    spread.
    A class that never came has count 0 and a mean of zeros that means nothing: mask it with ``counts > 0``.

    >>> import torch
    >>> statistics = ClassStatistics(num_classes=2, num_features=1)
    >>> _ = statistics.update(torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 1]))
    >>> statistics.means.flatten().tolist(), statistics.within_scatter.item()
    ([2.0, 10.0], 2.0)
    """

    def __init__(self, num_classes: int, num_features: int) -> None:
        self.num_classes, self.num_features = num_classes, num_features
        shapes = {
            "counts": (num_classes,),
            "means": (num_classes, num_features),
            "within_scatter": (num_features, num_features),
            "class_scatter_traces": (num_classes,),
            "l1_norm_sums": (num_classes,),
            "l2_norm_sums": (num_classes,),
        }
        self._merged = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        self._buffer: list[tuple[Tensor, Tensor]] = []
        self._buffered = 0

    # ---------------------------------------------------------------- state

    @property
    def counts(self) -> Tensor:
        """Samples of each class, (K,)."""
        return self._state["counts"]

    @property
    def means(self) -> Tensor:
        """Class means mu_k, (K, P)."""
        return self._state["means"]

    @property
    def within_scatter(self) -> Tensor:
        """S_W, (P, P): a sum over samples; divide by `num_samples` for Sigma_W."""
        return self._state["within_scatter"]

    @property
    def class_scatter_traces(self) -> Tensor:
        """sum ||h_i - mu_k||^2 over the samples of each class, (K,)."""
        return self._state["class_scatter_traces"]

    @property
    def l1_norm_sums(self) -> Tensor:
        """sum ||h_i||_1 over the samples of each class, (K,)."""
        return self._state["l1_norm_sums"]

    @property
    def l2_norm_sums(self) -> Tensor:
        """sum ||h_i||_2 over the samples of each class, (K,)."""
        return self._state["l2_norm_sums"]

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def global_mean(self) -> Tensor:
        """Mean of all samples, (P,): each sample counts once, so large classes count more (NCI's mu_G)."""
        return self.counts @ self.means / self.counts.sum()

    @property
    def covariance(self) -> Tensor:
        """Covariance of all samples about `global_mean`, divided by n, (P, P): within plus between classes."""
        offsets = (self.means - self.global_mean) * self.counts.sqrt()[:, None]
        return (self.within_scatter + offsets.T @ offsets) / self.counts.sum()

    # ---------------------------------------------------------------- verbs

    def update(self, features: Tensor, labels: Tensor) -> ClassStatistics:
        """Merge a batch: features (n, P) and labels (n,) in 0..K-1.

        Raises PluginError on a wrong width, NaN, infinity or a label out of range; nothing is merged then.
        """
        check_width("statistics", features, self.num_features)
        check_finite("statistics", features)
        check_labels("statistics", labels, self.num_classes)
        # A copy: the caller may reuse its batch before these rows are merged.
        self._buffer.append((features.detach().cpu().clone(), labels.detach().cpu().long().clone()))
        self._buffered += len(features)
        if self._buffered >= BUFFER_ROWS:
            self._flush()
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Merge the statistics of other samples of the same classes and width; ``other`` is not changed."""
        if (other.num_classes, other.num_features) != (self.num_classes, self.num_features):
            raise PluginError(
                f"statistics: cannot merge {other.num_classes} classes of {other.num_features} features into"
                f" {self.num_classes} classes of {self.num_features}; both must come from the same network"
            )
        self._flush()
        mine, theirs = self._merged, other._state
        n = mine["counts"] + theirs["counts"]
        share = torch.where(n > 0, theirs["counts"] / n, 0.0)
        delta = theirs["means"] - mine["means"]
        weight = mine["counts"] * share  # n_a n_b / (n_a + n_b)
        shift = delta[weight > 0] * weight[weight > 0].sqrt()[:, None]
        mine["within_scatter"] += theirs["within_scatter"]
        mine["within_scatter"].addmm_(shift.T, shift)
        mine["class_scatter_traces"] += theirs["class_scatter_traces"] + weight * delta.square().sum(1)
        mine["means"] += delta * share[:, None]
        for name in ("counts", "l1_norm_sums", "l2_norm_sums"):
            mine[name] += theirs[name]
        return self

    # ---------------------------------------------------------------- storage

    def state_dict(self) -> dict[str, Tensor]:
        """The state as named float64 tensors, to be stored."""
        return dict(self._state)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> ClassStatistics:
        """Rebuild statistics from what `state_dict` returned."""
        statistics = cls(*state["means"].shape)
        for name, tensor in statistics._merged.items():
            tensor.copy_(state[name])
        return statistics

    # ---------------------------------------------------------------- inside

    @property
    def _state(self) -> dict[str, Tensor]:
        self._flush()
        return self._merged

    def _flush(self) -> None:
        if not self._buffer:
            return
        rows, labels = (torch.cat(parts) for parts in zip(*self._buffer))
        self._buffer, self._buffered = [], 0
        self.merge(self._of_rows(rows.double(), labels))

    def _of_rows(self, rows: Tensor, labels: Tensor) -> ClassStatistics:
        """Statistics of float64 rows (n, P), which are overwritten."""
        batch = ClassStatistics(self.num_classes, self.num_features)
        state = batch._merged
        state["counts"] += torch.bincount(labels, minlength=self.num_classes)
        state["l1_norm_sums"].index_add_(0, labels, torch.linalg.vector_norm(rows, 1, dim=1))
        state["l2_norm_sums"].index_add_(0, labels, torch.linalg.vector_norm(rows, 2, dim=1))
        state["means"].index_add_(0, labels, rows)
        state["means"] /= state["counts"].clamp(min=1)[:, None]
        rows -= state["means"][labels]
        state["class_scatter_traces"].index_add_(0, labels, rows.square().sum(1))
        torch.mm(rows.T, rows, out=state["within_scatter"])
        return batch
