"""``nci-ood export``: a network and its detector as one graph."""

from __future__ import annotations

from nci_plugin.cli import service
from nci_plugin.cli.groups import Pass
from nci_plugin.cli.service_commands import Export
from nci_plugin.deploy.export import FORMATS, export


def run(options: Export) -> int:
    detector, _ = service.network_of(options.detector, options.network, Pass(device=options.device))
    output = options.output or options.detector.with_suffix(FORMATS[options.to])
    print(f"written to {export(detector, output, options.to, options.images, options.tpr)}")
    return 0
