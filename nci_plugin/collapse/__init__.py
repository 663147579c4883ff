"""Neural collapse, NC1 to NC5, from streamed statistics of the training features and the last layer alone.

A metric is one function with the decorator `metric`, in any file of this folder: it is then a field of
`CollapseMetrics`, in every table, figure and file, and in the reference.

>>> import torch
>>> from nci_plugin import ClassStatistics, LinearHead
>>> from nci_plugin.collapse import measure
>>> statistics = ClassStatistics(num_classes=2, num_features=2)
>>> features = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 3.0], [0.0, 5.0]])
>>> metrics = measure(statistics.update(features, torch.tensor([0, 0, 1, 1])), LinearHead(torch.eye(2), torch.zeros(2)))
>>> metrics.nc1_quotient, metrics.mean_norm_l2
(0.125, 4.0)
"""

import importlib
import pkgutil

# The order of these is that of every table; a file that is added is found without being named, and comes last.
from nci_plugin.collapse import variability, means, duality, held_out, progressive, norms, imbalance  # isort: skip  # noqa: F401

from nci_plugin.collapse.geometry import Undefined
from nci_plugin.collapse.held_out import NearestCentre, held_out_cdnv, nearest_centre, ortho_dev
from nci_plugin.collapse.measure import CollapseMetrics, measure
from nci_plugin.collapse.progressive import Progress, progress, within_cosine
from nci_plugin.collapse.registry import BEYOND, METRICS, Metric, metric

__all__ = [
    "BEYOND",
    "METRICS",
    "CollapseMetrics",
    "Metric",
    "NearestCentre",
    "Progress",
    "Undefined",
    "held_out_cdnv",
    "measure",
    "metric",
    "nearest_centre",
    "ortho_dev",
    "progress",
    "within_cosine",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
