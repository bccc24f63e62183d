"""A policy to begin with, made of what was seen of an endpoint.

A guess by names: which header, claim or field may say who is calling, and which number may be the
quantity. The draft is a valid policy file in shadow mode, and says what else it could be; a person
decides.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from pydantic import TypeAdapter, ValidationError

from usageflow.catalog.endpoints import Unmatched
from usageflow.middleware.sketch import ANY_NAME, Paths
from usageflow.policies.models import FIELD_CHARS_MAX
from usageflow.policies.routes import parse_template
from usageflow.policies.shapes import NAME_CHARS_MAX
from usageflow.policies.sources import Source

CALLERS: Final = (
    *("account", "customer", "tenant", "organi[sz]ation", "org", "workspace", "company"),
    *("subscriber", "team", "project", "client", "user", "sub", "api_?key", "authorization"),
)
"""Words in the name of what says who is calling, the most telling first."""
AMOUNTS: Final = (
    *("total_?tokens", "tokens", "credits", "units", "usage", "quantity", "count", "total"),
    *("seconds", "minutes", "duration", "characters", "pages", "bytes", "size", "amount"),
)
"""Words in the name of a quantity, the most telling first."""
OTHERS_MAX: Final = 5
"""Other candidates that a draft names."""
JWKS_URL: Final = "https://issuer.example/.well-known/jwks.json"
"""Stands for what nobody can see in a request: who signs the tokens."""
HASHED_WITH: Final = "env:API_KEY_SECRET"
"""The variable of the secret that API keys are hashed with."""
METRIC_CHARS_MAX: Final = 64
"""As many as `models.METRIC_PATTERN` allows."""

_SOURCE: Final[TypeAdapter[Source]] = TypeAdapter(Source)
_KEY: Final = re.compile("(?:^|_|api)keys?(?:_|$)")
_NUMBERS: Final = frozenset(("integer", "number"))

Table: TypeAlias = Mapping[str, str]
"""An identity source as a person writes it."""
NOBODY: Final[Table] = {"from": "header", "name": "x-account-id"}
"""Where no candidate was seen: a header that clients would have to send."""


def draft(one: Unmatched) -> str:
    """A policy file for the endpoint: one policy, in which `parse_file` finds no problem."""
    callers, amounts = list(_identities(one)), list(_quantities(one))
    caller = callers[0] if callers else NOBODY
    amount = amounts[0] if amounts else None
    name = re.sub("[^a-z0-9]+", "-", f"{one.method} {one.template}".lower()).strip("-")
    hint = "" if callers else "  # no name that was seen tells who is calling"
    answers = ", ".join(map(str, one.sketch.statuses)) or "?"
    lines = [
        f"# {one.requests} requests since {one.first_seen_at:%Y-%m-%d}, answered {answers}",
        "[[policy]]",
        f"name     = {_text(name[:NAME_CHARS_MAX])}",
        f"match    = {_text(f'{one.method} {one.template}')}",
        "identify = [",
        f"  {_table(caller)},{hint}",
        *(f"  # {_table(other)}," for other in callers[1 : OTHERS_MAX + 1]),
        "]",
        f"field    = {_text(_field(caller))}",
        f"metric   = {_text(_metric(amount))}",
        f"quantity = {'1' if amount is None else _text(amount)}",
        *(f"# quantity = {_text(other)}" for other in amounts[1 : OTHERS_MAX + 1]),
        'mode     = "shadow"  # recorded and never billed, until this line is removed',
    ]
    return "\n".join(lines) + "\n"


def _identities(one: Unmatched) -> Iterator[Table]:
    """The candidates that a policy may name, the most telling first."""
    found = [
        (rank, table)
        for name, table in _places(one)
        if (rank := _rank(name, CALLERS)) is not None
        and (table["from"] == "api_key" or not _may_be_credential(name))
        and _valid(table)
    ]
    return (table for _, table in sorted(found, key=lambda pair: pair[0]))


def _places(one: Unmatched) -> Iterator[tuple[str, Table]]:
    """Everything that has a name in a request, and how a policy reads it."""
    sketch = one.sketch
    for claim in _scalars(sketch.claims):
        yield claim, {"from": "jwt", "claim": claim, "keys": JWKS_URL}
    for kind, names in (
        ("header", sketch.headers),
        ("query", sketch.query),
        ("cookie", sketch.cookies),
    ):
        for name in names:
            if name != "authorization" or not sketch.claims:  # then it is a token
                yield name, _carried(kind, name)
    for name in parse_template(one.template).parameters:
        yield name, {"from": "path", "name": name}
    for path in _scalars(sketch.request):
        yield path, {"from": "body", "path": path}


def _carried(kind: str, name: str) -> Table:
    """A source for a header, parameter or cookie; a key is hashed."""
    if name == "authorization":
        return {"from": "api_key", kind: name, "scheme": "Bearer", "secret": HASHED_WITH}
    if _KEY.search(_words(name)):
        return {"from": "api_key", kind: name, "secret": HASHED_WITH}
    return {"from": kind, "name": name}


def _may_be_credential(name: str) -> bool:
    """Whether a value of this name may be a secret: what no source may be called, and more.

    A person who calls a body field `key` knows what is in it; who guesses by names does not.
    """
    words = _words(name)
    return (
        _KEY.search(words) is not None
        or "passw" in words
        or not all(_valid({"from": "query", "name": step}) for step in name.split("."))
    )


def _quantities(one: Unmatched) -> Iterator[str]:
    """Expressions for the numbers that may be counted, the most telling first."""
    found = []
    for section, paths in (("response", one.sketch.response), ("request", one.sketch.request)):
        for path, types in paths.items():
            rank = _rank(path.rpartition(".")[2], AMOUNTS)
            if rank is not None and ANY_NAME not in path and _NUMBERS.intersection(types):
                found.append((rank, _expression(f"{section}.body", path)))
    return (expression for _, expression in sorted(found, key=lambda pair: pair[0]))


def _expression(body: str, path: str) -> str:
    whole = body + path if path.startswith("[") else f"{body}.{path}"
    return f"sum({whole})" if "[]" in path else whole


def _rank(name: str, words: tuple[str, ...]) -> int | None:
    """How telling a name is; None if it tells nothing."""
    bare = _words(name)
    return next(
        (
            rank
            for rank, word in enumerate(words)
            if re.search(rf"(?:^|_){word}(?:s?_|s?$|id)", bare)
        ),
        None,
    )


def _words(name: str) -> str:
    """The words of a name, however they are put together: `user_id` of `User-ID` and `userId`."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub("([a-z0-9])([A-Z])", r"\1_\2", name).lower())


def _valid(table: Table) -> bool:
    try:
        _SOURCE.validate_python(table)
    except ValidationError:
        return False
    return True


def _scalars(paths: Paths) -> Iterator[str]:
    """The paths of texts and numbers of which a document has one."""
    return (
        path
        for path, types in paths.items()
        if "[]" not in path and ANY_NAME not in path and {"string", "integer"}.intersection(types)
    )


def _field(identity: Table) -> str:
    """What an identity from this source is called."""
    name = identity.get("name", identity.get("claim", identity.get("path", "api_key")))
    name = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_").removeprefix("x_")
    return {"": "account_id", "sub": "user_id"}.get(name, name[:FIELD_CHARS_MAX])


def _metric(quantity: str | None) -> str:
    """A key for what is counted, from the last name of its path."""
    name = re.sub("[^A-Z0-9]+", "_", (quantity or "").rpartition(".")[2].upper()).strip("_")
    return name[:METRIC_CHARS_MAX] if name[:1].isalpha() else "API_CALL"


def _table(values: Table) -> str:
    return "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in values.items()) + " }"


def _text(value: str) -> str:
    """A basic string of TOML: JSON's, as all that comes here can be printed."""
    return json.dumps(value, ensure_ascii=False)
