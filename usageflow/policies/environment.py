"""Secrets by name: a policy says `env:NAME`, the edge has the variable.

A policy is stored, sent to edges and shown in a dashboard, so it never holds a secret itself. Reads
no environment: the edge hands its variables over.
"""

import re
from collections.abc import Mapping
from typing import Final

from usageflow.policies.reason import Reason

REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]{0,99}")


def secret_reference(text: str) -> str:
    """`text`, if it names a variable; else ValueError, which does not repeat what may be secret."""
    if not REFERENCE.fullmatch(text):
        raise ValueError(
            'must name an environment variable of the edge, such as "env:MY_SECRET": '
            "a policy is stored and sent to edges, a secret must not be"
        )
    return text


def resolved(reference: str, environ: Mapping[str, str]) -> str | Reason:
    """The variable's value. Missing and empty are the same to an edge: there is no secret."""
    name = reference.removeprefix("env:")
    return environ.get(name) or Reason(f"the environment variable {name} is not set")
