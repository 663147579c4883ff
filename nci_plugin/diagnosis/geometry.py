"""Where features of a split lie with respect to the class means of the training set, and how scores are spread."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nci_plugin.collapse.geometry import (
    Undefined,
    between_directions,
    centre_distances,
    centred_means,
    directions,
    global_mean,
    lengths,
    present_classes,
)
from nci_plugin.collapse.means import nearest_etf
from nci_plugin.features.split import FeatureSplit
from nci_plugin.features.statistics import ClassStatistics

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PROJECTED_ROWS = 400
"""Samples of a split that are projected for the figure, evenly spaced."""


def distance_from_frame(split: FeatureSplit, statistics: ClassStatistics) -> dict[str, float | None]:
    """How far the features of a split lie from the frame of centred class means m_k = mu_k - mu_G.

    Means over samples of ``span_share``: share of ||h - mu_G|| inside the span of the m_k, 0..1 (1 at collapse);
    ``vertex_angle``: angle between h - mu_G and the nearest m_k, degrees (0 at collapse); ``etf_angle``: and the
    nearest vertex of the simplex ETF that fits the m_k best (0 at collapse), None where there is no such ETF;
    ``vertex_distance``: min_k ||h - mu_k|| in units of the mean ||m_k|| (0 at collapse). A feature at mu_G has angles
    of 90 and share 0.
    """
    centred, mean = centred_means(statistics), global_mean(statistics)
    _, basis = between_directions(centred)
    vertices, radius = [directions(centred[lengths(centred) > 0])], float(lengths(centred).mean())
    with suppress(Undefined):
        vertices.append(nearest_etf(centred))
    centres = statistics.means[present_classes(statistics)]
    totals = torch.zeros(2 + len(vertices), dtype=torch.float64)
    for chunk in split.chunks():
        offsets = chunk.features.double() - mean
        length = lengths(offsets)
        share = torch.where(length > 0, lengths(offsets @ basis.T) / length, 0.0)
        cosines = [torch.where(length > 0, (offsets @ each.T).amax(dim=1) / length, 0.0) for each in vertices]
        angles = [cosine.clamp(-1, 1).arccos().rad2deg().sum() for cosine in cosines]
        distance = centre_distances(chunk.features, centres).amin(dim=1) / radius
        totals += torch.stack([share.sum(), distance.sum(), *angles])
    values = (totals / len(split)).tolist()
    return {"etf_angle": None, **dict(zip(("span_share", "vertex_distance", "vertex_angle", "etf_angle"), values))}


class Plane:
    """The plane of the first two principal directions of the centred class means; origin mu_G."""

    def __init__(self, statistics: ClassStatistics) -> None:
        values, vectors = between_directions(centred_means(statistics))
        self.mean, self.axes = global_mean(statistics), vectors[:2]
        # A singular vector has no sign of its own: the largest coordinate is made positive.
        largest = self.axes.gather(1, self.axes.abs().argmax(dim=1, keepdim=True))
        self.axes = self.axes * largest.sign()
        self.explained = (values.square() / values.square().sum())[:2].tolist()

    def coordinates(self, rows: Tensor) -> NDArray[np.floating]:
        """Coordinates (n, 2) of rows (n, P) in the unit of the features; (n, 1) where the means lie on a line."""
        return ((rows.double() - self.mean) @ self.axes.T).numpy()

    def sample(self, split: FeatureSplit) -> dict[str, NDArray[Any]]:
        """Coordinates and labels of evenly spaced samples of a split."""
        rows = np.unique(np.linspace(0, len(split) - 1, min(len(split), PROJECTED_ROWS)).astype(int))
        chunks = [split.rows(row, row + 1) for row in rows.tolist()]
        features = torch.cat([chunk.features for chunk in chunks])
        return {"points": self.coordinates(features), "labels": torch.cat([c.labels for c in chunks]).numpy()}


def spread(scores: NDArray[np.floating]) -> dict[str, float | list[float]]:
    """Mean, population standard deviation and QUANTILES of scores (n,)."""
    values = scores.astype(np.float64)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": np.quantile(values, QUANTILES).tolist(),
    }
