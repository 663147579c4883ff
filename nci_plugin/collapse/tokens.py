"""Linguistic collapse (Wu & Papyan 2024): tokens as classes, many more than features and of very unequal sizes.

No simplex ETF exists for K > P + 1, so NC2 becomes hyperspherical uniformity (GNC2) and NC3 uniform duality (UNC3).
Pairs of tokens are taken a block at a time: beside the class means nothing grows with K^2 or with the text.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nci_plugin.checks import PluginError, check_choice, check_number, check_width
from nci_plugin.collapse.geometry import MEAN_CONVENTIONS, ROUNDING, Undefined, lengths
from nci_plugin.collapse.held_out import NearestCentre
from nci_plugin.collapse.registry import BEYOND, metric
from nci_plugin.features.split import Chunk
from nci_plugin.features.statistics import ClassStatistics
from nci_plugin.features.tokens import Batch, hidden_states, token_head
from nci_plugin.rows import id_labels

BLOCK = 128
"""Tokens that are compared with all others at once: 128 K numbers of 8 bytes, 51 MB for a vocabulary of 50,000."""

SAME = 1e-14
"""Squared distance between unit vectors below which they are one: what rounding leaves of products in float64."""

OF = "statistics weight"


@dataclass(frozen=True)
class TokenGeometry:
    """How the mean hidden states of tokens stand to each other and to the rows of the output layer.

    Args:
        tokens: K, those that came often enough.
        cdnv: NC1, mean over pairs of (v_k + v_k') / (2 ||mu_k - mu_k'||^2); 0 at collapse, of tokens that came twice.
        log_mean, log_variation: GNC2, mean and coefficient of variation (std / |mean|) of log(1 / ||u_k - u_k'||) over
            pairs, u the directions of mu_k - mu_G; the variation is 0 where all are equally far apart.
        cosine_mean, cosine_variation: mean and coefficient of variation of cos(w_k, mu_k - mu_G) over tokens; the
            variation is UNC3, 0 where weights are equally well aligned.
    """

    tokens: int
    cdnv: float | None
    log_mean: float
    log_variation: float
    cosine_mean: float
    cosine_variation: float


@metric("UNC3 variation of cos(w_k, mu_k - mu_G)", of=OF, name="tokens.cosine_variation", ideal=0, into=BEYOND)
@metric("UNC3 mean cos(w_k, mu_k - mu_G)", of=OF, name="tokens.cosine_mean", ideal=1, larger=True, into=BEYOND)
@metric("GNC2 variation of log inverse distance", of=OF, name="tokens.log_variation", ideal=0, into=BEYOND)
@metric("GNC2 mean log inverse distance of tokens", of=OF, name="tokens.log_mean", into=BEYOND)
@metric("NC1 CDNV of tokens", of=OF, name="tokens.cdnv", ideal=0, into=BEYOND)
def token_geometry(
    statistics: ClassStatistics, weight: Tensor, min_count: int = 1, mean: str = "classes", block: int = BLOCK
) -> TokenGeometry:
    """NC1, GNC2 and UNC3 of K tokens from statistics of hidden states and the output layer's ``weight`` (K, P).

    GNC2 is log(1 / ||u_k - u_k'||) over pairs of directions (Liu et al. 2023), UNC3 the coefficient of variation over
    tokens of the cosine of weight and class mean (Wu & Papyan 2024, arXiv 2405.17767, figure 3), as which GNC2 is read
    too. Tokens that came fewer than ``min_count`` times are masked; ``mean`` as in `collapse.measure`.

    Raises PluginError unless weight and statistics are of one vocabulary, and Undefined with fewer than three tokens,
    or where two have the same mean or direction. Needs two copies of the class means and ``block`` x K numbers.
    """
    check_number("tokens: min_count", min_count, above=0, whole=True)
    check_number("tokens: block", block, above=0, whole=True)
    check_choice("tokens: mean", mean, MEAN_CONVENTIONS)
    check_width("tokens: weight", weight, statistics.num_features)
    if len(weight) != statistics.num_classes:
        raise PluginError(f"tokens: the weight has {len(weight)} rows, the statistics {statistics.num_classes} tokens")
    kept = (statistics.counts >= min_count).nonzero()[:, 0]
    if len(kept) < 3:
        raise Undefined(f"tokens: spreads over pairs need three tokens that came {min_count} times, got {len(kept)}")
    counts = statistics.counts[kept]
    variances = torch.where(counts > 1, statistics.class_scatter_traces[kept] / counts, torch.nan)
    rows = statistics.means[kept]
    scale = lengths(rows).max()
    rows -= counts @ rows / counts.sum() if mean == "samples" else rows.mean(dim=0)
    length = lengths(rows)
    if not bool((length > ROUNDING * scale).all()):
        raise Undefined("tokens: a token's mean is that of all, so it has no direction; raise min_count")
    logs, distances, cosines = _Moments(), _Moments(), _Moments()
    for start in range(0, len(rows), block):
        part = slice(start, min(start + block, len(rows)))
        products = rows[part] @ rows[start:].T
        pairs = torch.ones_like(products, dtype=torch.bool).triu(1)  # each pair once, no token with itself
        squares = 2 - 2 * products / (length[part, None] * length[start:])
        apart = squares[pairs]
        if bool((apart <= SAME).any()):
            raise Undefined("tokens: two of them have the same mean direction, of which no logarithm exists")
        logs.add(-apart.log() / 2)
        squares = length[part, None].square() + length[start:].square() - 2 * products
        ratios = ((variances[part, None] + variances[start:]) / 2 / squares)[pairs]
        distances.add(ratios[ratios.isfinite()])
        weights = weight[kept[part]].detach().cpu().double()
        norms = lengths(weights)
        if not norms.all():
            raise Undefined("tokens: a row of the weight is zero, so it has no direction")
        cosines.add((weights * rows[part]).sum(dim=1) / (norms * length[part]))
    cdnv = distances.mean if distances.count else None
    return TokenGeometry(len(kept), cdnv, logs.mean, logs.variation, cosines.mean, cosines.variation)


class NearestToken:
    """NC4 over tokens: the nearest class mean as a classifier beside the model's own, a batch at a time."""

    def __init__(self, statistics: ClassStatistics, min_count: int = 1) -> None:
        self._tokens = (statistics.counts >= min_count).nonzero()[:, 0]
        if not len(self._tokens):
            raise Undefined(f"tokens: no token came {min_count} times, so none has a mean")
        self._centres = statistics.means[self._tokens]
        self._origin = self._centres.mean(dim=0)
        self._centres -= self._origin
        self._halves = self._centres.square().sum(dim=1) / 2
        self._agreeing = self._right = self._count = 0

    def update(self, chunk: Chunk, block: int = BLOCK) -> NearestToken:
        """Add hidden states, logits and next tokens; a model's choice among masked tokens disagrees."""
        labels = id_labels("tokens", chunk.labels, len(chunk), chunk.logits.shape[1])
        for start in range(0, len(chunk), block):
            part = slice(start, start + block)
            rows = chunk.features[part].cpu().double() - self._origin
            nearest = self._tokens[(rows @ self._centres.T - self._halves).argmax(dim=1)]  # = argmin ||h - mu_k||
            self._agreeing += int((nearest == chunk.logits[part].argmax(dim=1).cpu()).sum())
            self._right += int((nearest == labels[part]).sum())
        self._count += len(chunk)
        return self

    def result(self) -> NearestCentre:
        """Shares over all rows so far, 0 to 1; raises Undefined before the first."""
        if not self._count:
            raise Undefined("tokens: NC4 needs a hidden state, got none")
        return NearestCentre(self._agreeing / self._count, self._right / self._count)


@dataclass(frozen=True)
class TokenCollapse:
    """Linguistic collapse of one model on one text of ``samples`` predicted tokens; ``nc4`` is on the same text."""

    samples: int
    geometry: TokenGeometry
    nc4: NearestCentre


@metric("NC4 agreement over tokens", of="model batches", name="tokens.nc4", ideal=1, larger=True, into=BEYOND)
def measure_tokens(
    model: nn.Module, batches: Collection[Batch], min_count: int = 1, mean: str = "classes"
) -> TokenCollapse:
    """NC1, GNC2, UNC3 and NC4 over tokens of a causal model, from hidden states that are streamed twice.

    The first pass gives the class means, the second NC4, share of places where argmax_k z_k = argmin_k ||h - mu_k||
    (Wu & Papyan 2024). ``model`` as for `hidden_states`, any causal model of transformers; ``batches`` of
    token ids are gone through twice. Memory: two copies of the means, 8 K P bytes each, one of the weight, and about
    ten blocks of 128 x K numbers with the logits of a batch; 0.6 GB for K = 50,257 and P = 64, whatever the text.

    Raises PluginError as `hidden_states` does, and on batches that can be gone through only once.
    """
    if not isinstance(batches, Collection) or not len(batches):
        raise PluginError("tokens: needs a list of batches, gone through twice, got none or an iterator")
    head = token_head(model)
    statistics = ClassStatistics(head.num_classes, head.num_features)
    for chunk in hidden_states(model, batches):
        statistics.update(chunk.features.cpu(), chunk.labels)
    geometry = token_geometry(statistics, head.weight, min_count, mean)
    nearest = NearestToken(statistics, min_count)
    for chunk in hidden_states(model, batches):
        nearest.update(chunk)
    return TokenCollapse(statistics.num_samples, geometry, nearest.result())


class _Moments:
    """Count, mean and sum of squares about it, of values that come in parts (Chan, Golub & LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        if not len(values):
            return
        mean, count = float(values.mean()), self.count + len(values)
        shift = mean - self.mean
        self._squares += float((values - mean).square().sum()) + shift**2 * self.count * len(values) / count
        self.mean += shift * len(values) / count
        self.count = count

    @property
    def variation(self) -> float:
        """Standard deviation, with n - 1, over the size of the mean."""
        if self.mean == 0:
            raise Undefined("tokens: a mean is 0, so a spread has no unit")
        return (self._squares / (self.count - 1)) ** 0.5 / abs(self.mean)
