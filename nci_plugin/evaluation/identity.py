"""The identity of results: everything their numbers came from, digests by field, in the provenance of every row.

``weights`` are those of a seed's network; ``code`` is the network's, ``precision`` that of the pass; ``images`` and
``preprocessing`` have a digest for each split. Batch size, device and versions of libraries are no part of it.
"""

from __future__ import annotations

import inspect
import json
import re
import sysconfig
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from nci_plugin.benchmarks.benchmark import Features
from nci_plugin.benchmarks.image_digests import content_digests
from nci_plugin.benchmarks.image_list import ImageFiles
from nci_plugin.features.fingerprint import own_classes, tensor_bytes, weights_digest
from nci_plugin.files import digest
from nci_plugin.networks.head import LinearHead

FIELDS = ("weights", "code", "precision", "images", "preprocessing")
OF_SEED = "weights"
"""The field that is another for each seed; the others are those of the whole directory."""

EARLIER_FIELDS = ("weights", "data")
"""What earlier versions recorded; ``data`` knew images by their names and sizes."""

UNKNOWN = "unknown-"
"""Before the digest of a split that cannot be known again."""

FOLDER = Path("features", "images")
"""Where a results directory keeps the digests of its image files."""

Identity = Mapping[str, Any]


def network_identity(
    network: nn.Module | LinearHead,
    amp: str = "none",
    factory: bytes | str = "",
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The fields of one network: ``amp`` is the precision of torch.autocast (``none``: float32).

    ``factory`` is what made it: the bytes of its file and its name, where they are known.
    """
    return {
        "weights": weights_digest(network),
        "code": code_digest(network, factory, arguments or {}),
        "precision": "float32" if amp == "none" else amp,
    }


def data_identity(splits: Mapping[str, Any], cache: Path | None, progress: bool = False) -> dict[str, dict[str, str]]:
    """The fields of the splits that `open_splits` gave.

    Image lists are known by the bytes of their files (see `content_digests`), features by their bytes. A Dataset or a
    list of images held in Python cannot be known again: it counts as new each time.
    """
    lists = {name: split for name, split in splits.items() if isinstance(split, ImageFiles)}
    images = content_digests(lists, cache, progress)
    for name, split in splits.items():
        if isinstance(split, Features):
            parts: list[bytes | str] = []
            for tensor in (split.features, split.labels, split.logits):
                parts += [] if tensor is None else [f"{tensor.dtype} {tuple(tensor.shape)}", tensor_bytes(tensor)]
            images[name] = digest(*parts)
        elif name not in images:
            images[name] = f"{UNKNOWN}{uuid.uuid4().hex}"
    preprocessing = {name: digest(repr(split.source.preprocessing)) for name, split in lists.items()}
    return {"images": {name: images[name] for name in splits}, "preprocessing": preprocessing}


def data_digest(splits: Mapping[str, Any], cache: Path | None) -> str:
    """`data_identity` in one digest."""
    return digest(json.dumps(data_identity(splits, cache, progress=True), sort_keys=True))


def code_digest(network: nn.Module | LinearHead, factory: bytes | str, arguments: Mapping[str, Any]) -> str:
    """Hash of what is known of a network's code.

    That is its ``repr``, the names of its classes and their bases with the files that hold them (torch's, torchvision's
    and Python's own left out), and what made it. What these files import is not looked at.
    """
    if isinstance(network, LinearHead):
        return digest("linear head")
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network))  # addresses, in the texts of functions
    names, sources = [], set()
    for cls in own_classes(network):
        source = _source(cls)
        if source is not None:
            names.append(cls.__qualname__)
            sources.add(digest(source))
    return digest(structure, *sorted(names), *sorted(sources), factory, json.dumps(dict(arguments), default=repr))


def _source(cls: type) -> bytes | None:
    """The file that holds a class, or its methods where none does, as in a notebook; None of Python's own classes."""
    functions = [value for value in vars(cls).values() if inspect.isfunction(value)]
    paths = [function.__code__.co_filename for function in functions]
    with suppress(OSError, TypeError):
        paths.insert(0, inspect.getsourcefile(cls) or "")
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in map(Path, paths):
        if library in path.parents and not {"site-packages", "dist-packages"} & set(path.parts):
            return None
        with suppress(OSError):
            return path.read_bytes()
    texts = []
    for function in functions:
        with suppress(OSError):
            texts.append(inspect.getsource(function))
    return "".join(texts).encode()


# -------------------------------------------------------------------- comparing


def differences(then: Identity, now: Identity, seed: str = "") -> list[str]:
    """What differs between two identities, in words; a field that ``then`` does not record is none of it."""
    return [
        each for name in FIELDS if name in then for each in _field_differences(name, then[name], now.get(name), seed)
    ]


def _field_differences(name: str, then: Any, now: Any, seed: str) -> Iterator[str]:
    if then == now:
        return
    if name == OF_SEED:
        yield f"the weights of {seed or 'its network'}"
    elif name == "code":
        yield "the network's code"
    elif name == "precision":
        yield f"the precision, {now} for {then}"
    elif not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        yield name
    else:
        for split in dict.fromkeys([*then, *now]):
            if then.get(split) != now.get(split):
                yield f"{name} of '{split}'" + _why(then.get(split), now.get(split))


def _why(then: Any, now: Any) -> str:
    if then is None:
        return " (which were not there)"
    if now is None:
        return " (which are not there now)"
    if str(now).startswith(UNKNOWN) or str(then).startswith(UNKNOWN):
        return " (a Dataset or a list in Python cannot be known again)"
    return ""


def unrecorded(provenances: Sequence[Mapping[str, Any]]) -> str:
    """What is to be said of rows that do not record every field, as an earlier version wrote them; else empty."""
    names = [name for name in FIELDS if any(name not in each for each in provenances)]
    return f"identity not recorded: {', '.join(names)}" if names else ""


def disagreements(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """In what the rows (seed, provenance) of one directory differ, although it holds one run; in words."""
    first: dict[tuple[str, str], Any] = {}
    found: dict[str, None] = {}
    for seed, provenance in rows:
        for name in (*FIELDS, *EARLIER_FIELDS[1:]):
            if name in provenance:
                value = first.setdefault((name, seed if name == OF_SEED else ""), provenance[name])
                found.update(dict.fromkeys(_field_differences(name, value, provenance[name], seed)))
    return list(found)


def shown_field(provenance: Mapping[str, Any], name: str) -> str:
    """A field in one word: that of several splits as one digest."""
    value = provenance.get(name, "not recorded")
    return value if isinstance(value, str) else digest(json.dumps(value, sort_keys=True))
