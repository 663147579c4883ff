"""Print what an environment lacks for this checkout: one line per requirement, nothing when all is there.

Usage: python missing_requirements.py [EXTRA...]

Reads the requirements from setup.cfg, or from oldest-constraints.txt in a checkout of OpenOOD that the scripts were
copied into, and needs no network. The lines are

    missing torch>=2.1.0
    unsuited scikit-learn>=1.3.0 (1.0.2 is installed)
    unlinked nci_plugin (not installed from this checkout)
"""

import configparser
import json
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

SCRIPTS = Path(__file__).resolve().parent
CHECKOUT = SCRIPTS.parent


def own_config():
    """setup.cfg, or None where there is none of ours: in a checkout of OpenOOD."""
    config = configparser.ConfigParser()
    try:
        config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    except configparser.Error:
        return None
    return config if config.get("metadata", "name", fallback=None) == "nci_plugin" else None


def requirements(config, extras):
    """The requirement lines of setup.cfg: install_requires and those of the extras."""
    if config is None:
        lines = (SCRIPTS / "oldest-constraints.txt").read_text(encoding="utf-8").splitlines()
        return [line.replace("==", ">=") for line in lines if "==" in line]
    texts = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in extras)]
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def requirement_class():
    """`packaging`'s Requirement, or pip's copy, or None in an environment that has neither."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        try:
            from pip._vendor.packaging.requirements import Requirement
        except ImportError:
            return None
    return Requirement


def installed_version(name):
    """The version of an installed distribution; None when it is absent or its metadata is damaged."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):
        return None


def state(line, requirement):
    """None when the requirement is satisfied, else the line that says what is wrong."""
    if requirement is None:  # matplotlib needs packaging, so without it something is missing in any case
        return f"missing {line}"
    parsed = requirement(line)
    if parsed.marker is not None and not parsed.marker.evaluate():
        return None
    version = installed_version(parsed.name)
    if version is None:
        return f"missing {line}"
    if parsed.specifier.contains(version, prereleases=True):
        return None
    return f"unsuited {line} ({version} is installed)"


def linked():
    """Whether nci_plugin is installed, editable, from this checkout."""
    for distribution in metadata.distributions(name="nci_plugin"):
        text = distribution.read_text("direct_url.json")
        if text is None:
            continue
        url = json.loads(text)
        place = Path(url2pathname(urlsplit(url.get("url", "")).path))
        if url.get("dir_info", {}).get("editable") and place.is_dir() and place.samefile(CHECKOUT):
            return True
    return False


def main(extras):
    requirement = requirement_class()
    config = own_config()
    for line in requirements(config, extras):
        wrong = state(line, requirement)
        if wrong is not None:
            print(wrong)
    if config is not None and not linked():
        print("unlinked nci_plugin (not installed from this checkout)")


if __name__ == "__main__":
    main(sys.argv[1:])
