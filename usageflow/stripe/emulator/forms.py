"""Stripe's form encoding: `a[b][c]=1`, `a[0]=x`, `a[]=x` to nested objects and back to names.

It knows no schema: arrays stay objects with digit keys until the contract calls them arrays.
"""

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl

_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)\Z")
_PART: Final = re.compile(r"\[([^\[\]]*)\]")


def parse(text: str) -> dict[str, Any]:
    """The nested object of a form or query string; of a name given twice the last value counts."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        _place(tree, segments(name), value)
    return tree


def segments(name: str) -> list[str]:
    """`a[b][c]` as its parts. A malformed name is one part, which no schema will know."""
    match = _NAME.match(name)
    return [match[1], *_PART.findall(match[2])] if match else [name]


def parameter(path: Iterable[str | int]) -> str:
    """The name Stripe uses for a place in the nested object: `a[b][c]`."""
    head, *rest = [str(part) for part in path]
    return head + "".join(f"[{part}]" for part in rest)


def _place(tree: dict[str, Any], path: list[str], value: str) -> None:
    node = tree
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            child = node[part] = {}
        node = child
    node[path[-1] or str(len(node))] = value
