"""The identity of results: everything their numbers came from, digests by field, in the provenance of every row.

It is made by `identify`, and compared here.

``weights`` are those of a seed's network; ``code`` is the network's, ``precision`` that of the pass; ``images`` and
``preprocessing`` have a digest for each split. Batch size, device and versions of libraries are no part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nci_plugin.files import digest

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
