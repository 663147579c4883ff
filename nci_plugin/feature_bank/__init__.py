"""What one forward pass leaves behind: features, logits and labels of every split, in memory or on disk."""

from nci_plugin.feature_bank.bank import FeatureBank, Images, Stages
from nci_plugin.feature_bank.split import CHUNK_ROWS, Chunk, FeatureSplit
from nci_plugin.feature_bank.store import SplitStore

__all__ = ["CHUNK_ROWS", "Chunk", "FeatureBank", "FeatureSplit", "Images", "SplitStore", "Stages"]
