"""Neural collapse, NC1 to NC5, from streamed statistics of the training features and the last layer alone.

>>> import torch
>>> from nci_plugin import ClassStatistics, LinearHead
>>> from nci_plugin.collapse import measure
>>> statistics = ClassStatistics(num_classes=2, num_features=2)
>>> features = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 3.0], [0.0, 5.0]])
>>> metrics = measure(statistics.update(features, torch.tensor([0, 0, 1, 1])), LinearHead(torch.eye(2), torch.zeros(2)))
>>> metrics.nc1_quotient, metrics.mean_norm_l2
(0.125, 4.0)
"""

from nci_plugin.collapse.geometry import Undefined
from nci_plugin.collapse.held_out import NearestCentre, held_out_cdnv, nearest_centre, ortho_dev
from nci_plugin.collapse.measure import CollapseMetrics, measure

__all__ = [
    "CollapseMetrics",
    "NearestCentre",
    "Undefined",
    "held_out_cdnv",
    "measure",
    "nearest_centre",
    "ortho_dev",
]
