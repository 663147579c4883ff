"""One forward pass over every image list: images -> FeatureBank and ClassStatistics.

`options` says how the pass is run, `forward` passes batches through the network, `layout` cuts splits into shards,
`sums` adds up the training statistics, `split` makes a process's share of one split, `given` takes splits that are
features already, and `bank` makes the whole.
"""

from nci_plugin.extraction.bank import extract, extract_share
from nci_plugin.extraction.forward import REUSE_TOLERANCE, prepared
from nci_plugin.extraction.options import AMP, ExtractionOptions, check_amp, default_workers, resolve_device

__all__ = [
    "AMP",
    "REUSE_TOLERANCE",
    "ExtractionOptions",
    "check_amp",
    "default_workers",
    "extract",
    "extract_share",
    "prepared",
    "resolve_device",
]
