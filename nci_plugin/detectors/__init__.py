"""Detectors of out-of-distribution samples: one paper per file, all registered on import.

A file that is added here is found, though no line below names it.
"""

import importlib
import pkgutil

from nci_plugin.detectors.baselines import EBO, MLS, MSP
from nci_plugin.detectors.knn import KNN, KNNL1
from nci_plugin.detectors.mahalanobis import MDSPlusPlus, RMDSPlusPlus
from nci_plugin.detectors.nci import NCI, NCIL2, FeatureNorm, NCIAuto, PScore
from nci_plugin.detectors.nci_plus import NCIPlus
from nci_plugin.detectors.neco import NECO
from nci_plugin.detectors.neural_collapse import NC1, NC2, NC3, NC4, NC5
from nci_plugin.detectors.ora import ORA

__all__ = [
    "EBO",
    "KNN",
    "KNNL1",
    "MLS",
    "MSP",
    "NC1",
    "NC2",
    "NC3",
    "NC4",
    "NC5",
    "NCI",
    "NCIL2",
    "NECO",
    "ORA",
    "FeatureNorm",
    "MDSPlusPlus",
    "NCIAuto",
    "NCIPlus",
    "PScore",
    "RMDSPlusPlus",
]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
