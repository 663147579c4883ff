"""What detectors and collapse metrics need to know of the training features, without keeping the features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.rows import as_numbers, id_labels

BUFFER_ROWS = 4096
"""Rows collected before they are merged: a merge then costs little more than the matrix product of its rows."""

BLOCK_ROWS = 512
"""Rows that are centred at once, to keep temporary copies small."""

PRODUCT_COLUMNS = 256
"""Columns of a symmetric product that are computed at once: wide enough for the matrix product to be at full speed."""

SMALLEST = 2.0**-149
"""The smallest float32 above 0: torch's exporter to ONNX rounds constants to float32, smaller ones to 0."""

UNIT_TOLERANCE = 1e-5
"""How far the mean squared length of rows of length 1 may be from their mean length: those may be in float32."""


def unit_rows(features: Tensor) -> Tensor:
    """h / ||h||_2 of features (n, P), in float64; a row of zeros stays as it is."""
    rows = features.double()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return quotient(rows, length)


def quotient(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, where ``whole`` >= 0 is a length that is 0 only where ``part`` is: the quotient is 0 there."""
    return part / whole.clamp(min=max(torch.finfo(whole.dtype).tiny, SMALLEST))


class ClassStatistics:
    """Counts, means and pooled within-class scatter of K classes of P-dimensional features, in float64.

    The state is n_k, mu_k, S_W = sum_i (h_i - mu_{y_i})(h_i - mu_{y_i})^T, the trace of each class's own scatter and
    the sums of the norms ||h||_1 and ||h||_2 of each class. It is merged pairwise (Chan, Golub & LeVeque 1983), so
    that batches, shards and shuffled orders agree to rounding and nothing cancels when the mean is large against the
    spread.
    A class that never came has count 0 and a mean of zeros that means nothing: mask it with ``counts > 0``.
    They are kept on ``device``, which must have float64; batches are moved there.

    >>> import torch
    >>> statistics = ClassStatistics(num_classes=2, num_features=1)
    >>> _ = statistics.update(torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 1]))
    >>> statistics.means.flatten().tolist(), statistics.within_scatter.item()
    ([2.0, 10.0], 2.0)
    """

    def __init__(self, num_classes: int, num_features: int, device: torch.device | str = "cpu") -> None:
        self.num_classes, self.num_features = num_classes, num_features
        shapes = {
            "counts": (num_classes,),
            "means": (num_classes, num_features),
            "within_scatter": (num_features, num_features),
            "class_scatter_traces": (num_classes,),
            "l1_norm_sums": (num_classes,),
            "l2_norm_sums": (num_classes,),
        }
        self._merged = {name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()}
        # Rows wait here in float64; allocated once, so that memory does not grow with the number of samples.
        self._rows = torch.empty(0, num_features, dtype=torch.float64, device=device)
        self._labels = torch.empty(0, dtype=torch.long, device=device)
        self._waiting = 0

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
        """How many samples were counted, of all classes."""
        return int(self.counts.sum())

    @property
    def global_mean(self) -> Tensor:
        """Mean of all samples, (P,): each sample counts once, so large classes count more (NCI's mu_G)."""
        return self.counts @ self.means / self.counts.sum()

    @property
    def covariance(self) -> Tensor:
        """Covariance of all samples about `global_mean`, divided by n, (P, P): within plus between classes."""
        offsets = (self.means - self.global_mean) * self.counts.sqrt()[:, None]
        return _mirrored(self.within_scatter + offsets.T @ offsets) / self.counts.sum()

    @property
    def has_unit_rows(self) -> bool:
        """Whether every sample can have come from `unit_rows`: the sums of ||h||_2 and ||h||_2^2 agree."""
        squares = self.class_scatter_traces + self.counts * self.means.square().sum(dim=1)
        return bool(((squares - self.l2_norm_sums).abs() <= UNIT_TOLERANCE * self.counts).all())

    # ---------------------------------------------------------------- verbs

    def update(self, features: Tensor, labels: Tensor) -> ClassStatistics:
        """Merge a batch: features (n, P) and labels (n,) in 0..K-1.

        Raises PluginError on a wrong width, NaN, infinity and labels as `id_labels` does; nothing is merged then.
        """
        features = as_numbers("statistics: features", features, self._rows.device)
        check_width("statistics", features, self.num_features)
        check_finite("statistics", features)
        labels = id_labels("statistics", labels, len(features), self.num_classes)
        if not len(self._rows):
            self._rows = self._rows.new_empty(BUFFER_ROWS, self.num_features)
            self._labels = self._labels.new_empty(BUFFER_ROWS)
        start = 0
        while start < len(features):
            count = min(len(features) - start, BUFFER_ROWS - self._waiting)
            free = slice(self._waiting, self._waiting + count)
            self._rows[free] = features[start : start + count]
            self._labels[free] = labels[start : start + count]
            self._waiting += count
            start += count
            if self._waiting == BUFFER_ROWS:
                self.flush()
        return self

    def merge(self, other: ClassStatistics) -> ClassStatistics:
        """Merge the statistics of other samples of the same classes and width; ``other`` is not changed."""
        if (other.num_classes, other.num_features) != (self.num_classes, self.num_features):
            raise PluginError(
                f"statistics: cannot merge {other.num_classes} classes of {other.num_features} features into"
                f" {self.num_classes} classes of {self.num_features}; both must come from the same network"
            )
        self.flush()
        theirs = other._state
        self._merged["within_scatter"] += theirs["within_scatter"]
        self._merge_classes(theirs)
        return self

    def flush(self) -> ClassStatistics:
        """Merge the rows that wait: what is merged later gives the same bits whether the state was stored here or not.

        Updates and reading do it where it is needed.
        """
        if self._waiting:
            waiting, self._waiting = self._waiting, 0
            self._merge_rows(self._rows[:waiting], self._labels[:waiting])
        return self

    # ---------------------------------------------------------------- storage

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the state as named float64 tensors, to be stored."""
        return {name: tensor.clone() for name, tensor in self._state.items()}

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
        self.flush()
        return self._merged

    def _merge_rows(self, rows: Tensor, labels: Tensor) -> None:
        """Merge float64 rows (n, P), which are overwritten: the statistics of a batch are never built in full."""
        counts = torch.bincount(labels, minlength=self.num_classes).double()

        def class_sums(values: Tensor) -> Tensor:
            """By `index_put_`, which adds in a fixed order on a GPU too: the same bits every time."""
            sums = values.new_zeros((self.num_classes, *values.shape[1:]))
            return sums.index_put_((labels,), values, accumulate=True)

        batch = {
            "counts": counts,
            "l1_norm_sums": class_sums(torch.linalg.vector_norm(rows, 1, dim=1)),
            "l2_norm_sums": class_sums(torch.linalg.vector_norm(rows, 2, dim=1)),
            "means": class_sums(rows).div_(counts.clamp(min=1)[:, None]),
        }
        for part, part_labels in zip(rows.split(BLOCK_ROWS), labels.split(BLOCK_ROWS)):
            part -= batch["means"][part_labels]
        batch["class_scatter_traces"] = class_sums(torch.linalg.vector_norm(rows, 2, dim=1).square_())
        _add_products(self._merged["within_scatter"], rows)
        self._merge_classes(batch)

    def _merge_classes(self, theirs: Mapping[str, Tensor]) -> None:
        """Merge everything but the scatter about the others' means, which the caller has added already."""
        mine = self._merged
        here = theirs["counts"] > 0
        n_mine, n_theirs = mine["counts"][here], theirs["counts"][here]
        share = n_theirs / (n_mine + n_theirs)
        shift = theirs["means"][here] - mine["means"][here]
        mine["means"].index_add_(0, here.nonzero()[:, 0], shift * share[:, None])
        shift *= (n_mine * share).sqrt()[:, None]  # the squared norm of a row is now n_a n_b / (n_a + n_b) ||delta||^2
        _add_products(mine["within_scatter"], shift)
        mine["class_scatter_traces"][here] += shift.square().sum(1)
        for name in ("counts", "class_scatter_traces", "l1_norm_sums", "l2_norm_sums"):
            mine[name] += theirs[name]


def _add_products(total: Tensor, rows: Tensor) -> None:
    """Add rows^T rows, of rows (n, P), to the symmetric ``total`` (P, P): what lies on one side alone is multiplied."""
    for start in range(0, len(total), PRODUCT_COLUMNS):
        stop = start + PRODUCT_COLUMNS
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
        total[start:stop, start:stop] = _mirrored(total[start:stop, start:stop])
        total[stop:, start:stop] = total[start:stop, stop:].T


def _mirrored(product: Tensor) -> Tensor:
    """The lower triangle of a symmetric product (P, P) in both: on some processors they differ in the last bit."""
    return product.tril() + product.tril(-1).T
