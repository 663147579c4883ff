"""Neural collapse, NC1 to NC5, from streamed statistics of the training features and the last layer alone.

>>> from nci_plugin.collapse import measure
>>> metrics = measure(statistics, head)            # doctest: +SKIP
>>> metrics.nc1_quotient, metrics.nc3_cosine_mean  # doctest: +SKIP
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
