"""``nci-ood recommend``: which detector for a network, without OOD images."""

from __future__ import annotations

from nci_plugin.cli import service
from nci_plugin.cli.service_commands import Recommend
from nci_plugin.deploy.choice import recommend
from nci_plugin.deploy.detector import OODDetector


def run(options: Recommend) -> int:
    served = service.find(options.on)
    like = OODDetector(
        preprocessing=served.steps,
        seed=options.seed,
        batch_size=options.on.passing.batch_size,
        workers=served.workers,
        head=options.on.network.head,
    )
    print(recommend(served.model, served.train, served.validation, options.detectors, like=like))
    return 0
