"""What an attack does to the geometry of collapse: features leap towards the vertex of the adversarial class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nci_plugin.checks import PluginError, check_finite, check_width
from nci_plugin.collapse.geometry import Undefined, centre_distances
from nci_plugin.collapse.registry import BEYOND, metric
from nci_plugin.rows import id_labels


@dataclass(frozen=True)
class Leap:
    """Where attacked features went.

    Args:
        at_target: share whose nearest class mean is that of the adversarial class, 0 to 1 (Su et al. 2023).
        displacement: mean of (h' - h).(mu_t - mu_y) / ||mu_t - mu_y||^2: 0 stays, 1 is the whole way from mean to mean.
    """

    at_target: float
    displacement: float


@metric("leap, displacement", of="clean attacked sources targets means", name="leap.displacement", into=BEYOND)
@metric("leap, share at target", of="clean attacked sources targets means", name="leap.at_target", into=BEYOND)
def leap(clean: Tensor, attacked: Tensor, sources: Tensor, targets: Tensor, means: Tensor) -> Leap:
    """The leap of features h (n, P) to h' (n, P) under attack, from classes y to t, (n,), of ``means`` mu (K, P).

    t is the class that the network decides for after the attack, another than y (Su et al. 2023, On the robustness of
    neural collapse; the displacement in units of ||mu_t - mu_y|| is this package's). Raises PluginError on rows that do
    not fit together or where t is y, Undefined without rows or where two means are equal.
    """
    for what, rows in (("clean", clean), ("attacked", attacked)):
        check_width(f"leap: {what} features", rows, means.shape[1])
        check_finite(f"leap: {what} features", rows)
    if len(clean) != len(attacked):
        raise PluginError(f"leap: needs a row of each image, got {len(clean)} clean and {len(attacked)} attacked ones")
    sources = id_labels("leap: sources", sources, len(clean), len(means))
    targets = id_labels("leap: targets", targets, len(clean), len(means))
    if bool((sources == targets).any()):
        raise PluginError("leap: the class must have changed, got the same before and after; leave those images out")
    if not len(clean):
        raise Undefined("leap: no image has changed its class")
    centres = means.double()
    way = centres[targets] - centres[sources]
    squares = way.square().sum(dim=1)
    if not squares.all():
        raise Undefined("leap: two class means are equal, so there is no way from one to the other")
    nearest = centre_distances(attacked, centres).argmin(dim=1)
    steps = ((attacked.double() - clean.double()) * way).sum(dim=1) / squares
    return Leap(float((nearest == targets).double().mean()), float(steps.mean()))
