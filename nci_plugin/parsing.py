"""YAML and JSON files from anywhere: parsed whole, or refused with the place where they cannot be.

What comes back is a tree of bounded size and depth, in which every key of a mapping stood once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

import nci_plugin
from nci_plugin.checks import PluginError, check_keys, shown
from nci_plugin.files import digest, read_text, write_atomically

YAML_BYTES = 2**18
"""The largest config: those that ship have less than 5 kB."""

YAML_NODES = 20_000
"""Keys and values of a config, aliases written out: those of thirty aliases of aliases are more than memory holds."""

YAML_DEPTH = 50

JSON_BYTES = 2**24
CHECKSUM = "checksum"

PLAIN: dict[Any, Any] = {str: str, int: int, float: (int, float), bool: bool}
KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Mapping: "a mapping",
    Sequence: "a list",
}
"""What `typed` calls them."""


def load_yaml(path: Path) -> Any:
    """Parse a YAML file of at most 256 KiB.

    Raises PluginError naming the file and the line where it is no YAML, names a key twice, or is deeper or, with its
    aliases written out, larger than any config is.
    """
    text = read_text(path, "config", YAML_BYTES, "correct it, or pass another")
    loader = yaml.SafeLoader("")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_node(root, loader, {})
        return loader.construct_document(root)
    # ValueError and OverflowError of a date or a number that is none, RecursionError of a thousand brackets
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise PluginError(f"config '{path}'{place}: not valid YAML ({reason}); correct it") from None
    finally:
        loader.dispose()


def read_json(path: Path, what: str, remedy: str, limit: int = JSON_BYTES) -> Any:
    """Parse a JSON file of at most ``limit`` bytes, 16 MiB unless it says.

    Raises PluginError where it is no JSON or names a key twice, and as `open_regular` does.
    """
    text = read_text(path, what, limit, remedy)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise PluginError(f"{what} '{path}': is damaged, no valid JSON ({error}); {remedy}") from None


def write_json(path: Path, content: Mapping[str, Any], durable: bool = True) -> None:
    """Write JSON that `read_json` reads, whole or not at all (see `write_atomically`); raises ValueError on NaN."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n", durable)


def typed(kind: Any, value: Any, where: str) -> Any:
    """What JSON holds as an annotation says: of a dataclass an instance, whose fields are read in the same way.

    A ``kind`` is str, int, float, bool, Any, a dataclass, a Mapping of texts to a kind, a Sequence of one, or Optional.
    Raises PluginError, which begins with ``where``, on a value of another kind, and on a field that is unknown or
    missing.
    """
    outer, inner = get_origin(kind), get_args(kind)
    if outer is Union:  # Optional: "X | None" cannot be read from a dataclass before Python 3.10
        return None if value is None else typed(inner[0], value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = _kinds(kind)
        required = [each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING]
        check_keys(where, value, kinds, required)
        return kind(**{name: typed(kinds[name], each, f"{where}: '{name}'") for name, each in value.items()})
    if outer is Mapping and isinstance(value, dict):
        return {name: typed(inner[1], each, f"{where}: '{name}'") for name, each in value.items()}
    if outer is Sequence and isinstance(value, list):
        return [typed(inner[0], each, where) for each in value]
    if kind is Any or (outer is None and isinstance(value, PLAIN[kind]) and isinstance(value, bool) == (kind is bool)):
        return value
    raise PluginError(f"{where}: must be {KINDS[outer or kind]}, got {shown(value)}")


def checked_line(content: Mapping[str, Any], allow_nan: bool = True) -> str:
    """One line of JSON, without its end, with a checksum of all the rest."""
    return json.dumps({**content, CHECKSUM: digest(json.dumps(content, allow_nan=allow_nan))})


def read_checked_line(line: str) -> tuple[Any, bool | None]:
    """What `checked_line` was given, and whether the checksum is that of it; None without one.

    Raises ValueError or RecursionError on what is no JSON.
    """
    raw = json.loads(line)
    stated = raw.pop(CHECKSUM, None) if isinstance(raw, dict) else None
    return raw, None if stated is None else stated == digest(json.dumps(raw))


_kinds = cache(get_type_hints)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return found


def _check_node(node: yaml.Node, loader: yaml.SafeLoader, measured: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """The number of nodes at and below a node and their depth, aliases written out; raises YAMLError if too many.

    ``measured`` holds those that are known, (0, 0) for those that are being counted: to meet one again is a circle.
    """
    known = measured.get(id(node))
    if known == (0, 0):
        raise yaml.MarkedYAMLError(problem="an alias of what it is in", problem_mark=node.start_mark)
    if known is not None:
        return known
    measured[id(node)] = 0, 0
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, loader)
        below = [each for pair in node.value for each in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    sizes, depths = zip((0, 0), *(_check_node(each, loader, measured) for each in below))
    size, depth = 1 + sum(sizes), 1 + max(depths)
    if size > YAML_NODES or depth > YAML_DEPTH:
        problem = f"more than {YAML_NODES} values, or deeper than {YAML_DEPTH} levels, its aliases written out"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    measured[id(node)] = size, depth
    return size, depth


def _check_keys(node: yaml.MappingNode, loader: yaml.SafeLoader) -> None:
    """Raise on a key that stands twice in a mapping: the last would count in silence.

    A key that overrides one which ``<<`` merges in stands once: that is what the merge is for.
    """
    keys = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue  # no key that is asked for anywhere
        merges = key_node.tag == "tag:yaml.org,2002:merge"
        key = "<<" if merges else loader.construct_object(key_node)
        if key in keys:
            problem = f"the key {shown(key)} stands there twice"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        keys.add(key)


def config_directory() -> Path:
    """Where the YAML files are: inside an installed package, or at the top of a checkout."""
    package = Path(nci_plugin.__file__).parent
    for directory in (package / "configs", package.parent / "configs"):
        if directory.is_dir():
            return directory
    raise PluginError(f"configs: not found beside '{package}'; install nci_plugin again")
