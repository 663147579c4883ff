"""``python -m nci_plugin`` is the command ``nci-ood``."""

import sys

from nci_plugin.cli.main import main

sys.exit(main())
