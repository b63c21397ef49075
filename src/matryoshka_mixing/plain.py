"""Plain data from files of others: YAML, JSON and NumPy archives that are read, never run.

No tag of a YAML file makes an object, no array is unpickled, and what is damaged, too large, or says a thing twice is
refused with an error that names the file. What the project reads of such files, it reads here.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

LARGEST_TEXT = 10_000_000
"""Bytes that a YAML or JSON file may have at most (our default)."""
DEEPEST_TEXT = 100
"""Levels that YAML may be nested at most (our default)."""
_DAMAGE = (
    ValueError,
    KeyError,
    EOFError,
    OSError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and zipfile raise, once a file is open, if its bytes make no sense."""
# The C parser is several times as fast; PyYAML has it unless it was built without.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Once(_Safe):
    """YAML in which no key stands twice; PyYAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError(f"line {node.start_mark.line + 1}: a name is a list or a mapping; it must be a plain word")
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in keys.items() if times > 1]:
            raise ValueError(f"line {node.start_mark.line + 1}: {', '.join(twice)} stands twice in one place")
        return super().construct_mapping(node, deep)


def text_of(path: str | Path, largest: int = LARGEST_TEXT) -> str:
    """The text of a file, UTF-8, with a byte order mark or without.

    Raises:
        ValueError: if it is too large, or no UTF-8.
        OSError: if it cannot be read.
    """
    if (size := Path(path).stat().st_size) > largest:
        raise ValueError(f"{path} has {size:,} bytes; such a file may have {largest:,} at most.")
    try:
        return Path(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text (byte {error.start}); save it in that encoding.") from None


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds: plain values, lists and mappings.

    Raises:
        ValueError: naming the file and the line, if it is no YAML, too large or too deep; if it has tags, references to
            other parts of itself (which can blow up, or close a circle), or a key twice.
        OSError: if it cannot be read.
    """
    text = text_of(path)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Safe):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"line {line}: *{event.anchor} refers to another part; write it out")
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"line {line}: the tag {event.tag} would make an object; write a plain value")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_TEXT:
                raise ValueError(f"line {line}: more than {DEEPEST_TEXT} levels deep, which is the most")
        return yaml.load(text, Loader=_Once)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no plain YAML: {' '.join(str(error).split())}.") from None


def read_json(path: str | Path, largest: int = LARGEST_TEXT) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: naming the file, if it is no JSON, too large or too deep, if it holds NaN or an infinity, or a key
            twice in one object.
        OSError: if it cannot be read.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = sorted(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise ValueError(f"{', '.join(twice)} stands twice in one node")
        return found

    text = text_of(path, largest)
    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def read_arrays(path: str | Path, along: Mapping[str, Sequence[str]] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, by name; nothing is unpickled.

    Args:
        path: the file.
        along: arrays that must be there: for the name of one, those whose first axis is as long.

    Raises:
        ValueError: naming the file, if it is no such file, damaged, cut short, holds objects, or lacks what is asked.
        OSError: if it cannot be read.
    """
    found = _arrays(path)
    asked = {name for first, rest in (along or {}).items() for name in (first, *rest)}
    if lacking := sorted(asked - found.keys()):
        raise ValueError(f"{path} lacks the arrays {lacking}; it is another file, or was written by another version.")
    for first, rest in (along or {}).items():
        if wrong := [name for name in rest if found[name].shape[:1] != found[first].shape[:1]]:
            shapes = {name: found[name].shape for name in (first, *wrong)}
            raise ValueError(f"{path}: the first axes of {shapes} must be as long as that of {first}.")
    return found


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path} is no .npz file of NumPy, or is cut short.")
        try:
            with np.load(file, allow_pickle=False) as data:
                return {name: data[name] for name in data.files}
        except _DAMAGE as error:
            said = "it holds objects, which are not unpickled" if "pickle" in str(error) else str(error)
            raise ValueError(f"{path} is damaged, or holds no plain arrays: {said}.") from None
