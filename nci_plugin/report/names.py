"""What a reader calls a detector, beside the identifier that commands take."""

from __future__ import annotations

_NAMES = {
    "caref": "CARef",
    "cadref": "CADRef",
    "ebo": "Energy",
    "fdbd": "fDBD",
    "feature_norm": "Feature norm",
    "klm": "KL matching",
    "knn": "KNN",
    "knn_l1": "KNN + L1 norm",
    "mds_pp": "MDS++",
    "mds_radial": "Radial MDS",
    "mls": "Max logit",
    "nci_auto": "NCI, alpha from ID",
    "nci_gated": "NCI, gated",
    "nci_l2": "NCI, L2 norm",
    "nci_plus": "NCI+",
    "nnguide": "NNGuide",
    "ora": "ORA",
    "pscore": "pScore",
    "pscore_data_free": "pScore, data-free",
    "react": "ReAct",
    "rmds_pp": "RMDS++",
    "vim": "ViM",
    "whitened_cosine": "Whitened cosine",
    "whitened_cosine_pp": "Whitened cosine++",
    **{name: name.upper() for name in ("dice", "gen", "msp", "nc1", "nc2", "nc3", "nc4", "nc5", "nci", "neco", "ras")},
    "scale": "SCALE",
}
"""A method of another package keeps the name that its package gives it."""


def display_name(detector: str) -> str:
    """``MDS++`` of ``mds_pp``; a name that is not known, a user's say, stands as it is."""
    return _NAMES.get(detector, detector)
