"""Each claim of the dynamics paper (arXiv 2604.00230), and one of NCI's, against an analysis."""

from __future__ import annotations

from collections.abc import Sequence

from claims import forecast, intervention, reference, structure, training
from claims.finding import CANNOT_TELL, CONFIRMED, NOT_CONFIRMED, Finding, adjusted
from nci_plugin.dynamics.analysis import Analysis
from nci_plugin.dynamics.trajectory import Trajectory

__all__ = ["CANNOT_TELL", "CONFIRMED", "NOT_CONFIRMED", "Finding", "findings"]


def findings(analysis: Analysis, intervened: Sequence[Trajectory] = ()) -> list[Finding]:
    """Every claim with a verdict by its rule; ``intervened`` runs are not in the analysis, those without it are."""
    found = [
        reference.concentration(analysis),
        reference.invariance(analysis),
        forecast.precedence(analysis),
        *forecast.predictions(analysis),
        intervention.attractor(analysis, intervened),
        structure.depth(analysis),
        structure.activation(analysis),
        structure.weight_decay(analysis),
        structure.width(analysis),
        structure.width_shift(analysis),
        reference.non_additivity(analysis),
        training.cross_entropy(analysis),
        *training.early_detection(analysis),
    ]
    return adjusted(found)
