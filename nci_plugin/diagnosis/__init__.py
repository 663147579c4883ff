"""What has collapsed in a network, layer by layer, and what its collapse says of ID and OOD samples."""

DETECTORS = ("nc1", "nc2", "nc3", "nc4", "nc5", "pscore", "feature_norm")
"""Scores whose AUROC and spread a diagnosis gives; all fit on statistics."""
