"""The policy file: TOML in, policies and problems with their lines out.

One bad policy never takes the others down. Takes the text; reading the file is the caller's. The
TOML reader gives no line numbers, so `_Places` finds where tables and keys begin.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from usageflow.errors import PolicyFileError
from usageflow.policies.claims import Claims
from usageflow.policies.document import canonical
from usageflow.policies.models import Metric, Policy
from usageflow.policies.problems import explain, title
from usageflow.policies.suggestions import did_you_mean

_TABLES: Final = ("policy", "metric")
_VERSION_DIGITS: Final = 12
_HEADER = re.compile(r"\s*\[\[\s*(policy|metric)\s*\]\]")
_SUBTABLE = re.compile(r"""\s*\[{1,2}\s*(?:policy|metric)\s*\.\s*["']?([\w-]+)""")
_OTHER_TABLE = re.compile(r"""\s*\[{1,2}\s*["']?([\w-]+)""")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*[=.]""")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")


class PolicyFile(NamedTuple):
    """The valid policies with their versions, the declared metrics, and one line per problem."""

    policies: tuple[tuple[Policy, str], ...]
    problems: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()


def parse(text: str, source: str) -> PolicyFile:
    """Read a policy file's text; `source` is its name in messages.

    Raises PolicyFileError with FILE:LINE:COLUMN if it is not TOML; everything else is a problem
    in the result, `FILE:LINE: policy "chat" (#2): quantity: message`.
    """
    return _Reading(source, _load(text, source), _Places(text)).result()


def version_of(policy: Policy) -> str:
    """The version of a policy from a file: a hash of what it says."""
    return "f" + hashlib.sha256(canonical(policy)).hexdigest()[:_VERSION_DIGITS]


def _load(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        lines = text.splitlines() or [""]
        line, column = place.groups() if place else (len(lines), len(lines[-1]) + 1)
        message = _PLACE.sub("", message).removesuffix(" (at end of document)")
        raise PolicyFileError(source, [f"{source}:{line}:{column}: {message}"]) from None
    except (ValueError, ArithmeticError):
        problem = f"{source}:1:1: a number has too many digits"
        raise PolicyFileError(source, [problem]) from None
    except RecursionError:
        raise PolicyFileError(source, [f"{source}:1:1: nested too deeply"]) from None


class _Reading:
    """One pass over the tables of a file, collecting what is good and what is not."""

    def __init__(self, source: str, tables: dict[str, Any], places: "_Places") -> None:
        self._source = source
        self._tables = tables
        self._places = places
        self._problems: list[tuple[int, str]] = []
        self._metrics: dict[str, Metric] = {}
        self._claims = Claims()

    def result(self) -> PolicyFile:
        for key in self._tables:
            if key not in _TABLES:
                self._tell(
                    self._places.top(key), f'"{key}" is not known{did_you_mean(key, _TABLES)}'
                )
        for number, table in self._each("metric"):
            self._read_metric(number, table)
        policies = [self._read_policy(number, table) for number, table in self._each("policy")]
        return PolicyFile(
            tuple((policy, version_of(policy)) for policy in policies if policy is not None),
            tuple(
                f"{self._source}:{line}: {text}"
                for line, text in sorted(self._problems, key=lambda problem: problem[0])
            ),
            tuple(self._metrics.values()),
        )

    def _each(self, kind: str) -> Iterator[tuple[int, Any]]:
        tables = self._tables.get(kind, [])
        if isinstance(tables, list):
            yield from enumerate(tables, start=1)
        else:
            self._tell(self._places.top(kind), f"{kind}: write [[{kind}]], with two brackets")

    def _read_metric(self, number: int, table: Any) -> None:
        try:
            metric = Metric.model_validate(table)
        except ValidationError as error:
            for key, text in explain(error, Metric):
                self._tell(self._places.line("metric", number, key), f"metric (#{number}): {text}")
            return
        if metric.key in self._metrics:
            line = self._places.line("metric", number, "key")
            self._tell(line, f'metric (#{number}): key: "{metric.key}" is declared twice')
        self._metrics.setdefault(metric.key, metric)

    def _read_policy(self, number: int, table: Any) -> Policy | None:
        try:
            policy = Policy.model_validate(table)
        except ValidationError as error:
            found = explain(error, Policy)
        else:
            problem = self._undeclared(policy) or self._claims.make(policy)
            if problem is None:
                return policy
            found = [(problem[0], ": ".join(problem))]
        for key, text in found:
            line = self._places.line("policy", number, key)
            self._tell(line, f"{title(table, number)}: {text}")
        return None

    def _undeclared(self, policy: Policy) -> tuple[str, str] | None:
        if "metric" not in self._tables or policy.metric in self._metrics:
            return None
        hint = did_you_mean(policy.metric, self._metrics)
        return "metric", f'"{policy.metric}" is not declared as a [[metric]]{hint}'

    def _tell(self, line: int, text: str) -> None:
        self._problems.append((line, text))


class _Places:
    """The line of each [[policy]] and [[metric]] table and of the keys within it.

    A scan, not a parser: it skips comments and multi-line strings, and where a file is written so
    that it finds nothing (`policy = [...]`), it names the nearest line it knows.
    """

    def __init__(self, text: str) -> None:
        self._top: dict[str, int] = {}
        self._tables: dict[str, list[dict[str, int]]] = {kind: [] for kind in _TABLES}
        table = keys = self._top
        for number, line in _lines_outside_strings(text):
            if header := _HEADER.match(line):
                table = keys = {"": number}
                self._top.setdefault(header[1], number)
                self._tables[header[1]].append(table)
            elif subtable := _SUBTABLE.match(line):
                table.setdefault(subtable[1], number)
                keys = {}  # what follows belongs to the subtable
            elif other := _OTHER_TABLE.match(line):
                self._top.setdefault(other[1], number)
                keys = {}
            elif key := _KEY.match(line):
                keys.setdefault(key[1], number)

    def top(self, key: str) -> int:
        """The line of a top-level key or table; 1 if it was not found."""
        return self._top.get(key, 1)

    def line(self, kind: str, number: int, key: str) -> int:
        """The line of `key` in the table `number` of this kind, else the line of the table."""
        tables = self._tables[kind]
        if number > len(tables):
            return self.top(kind)
        keys = tables[number - 1]
        return keys.get(key, keys[""])


def _lines_outside_strings(text: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that begin outside of a multi-line string."""
    closing = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not closing:
            yield number, line
        rest = line
        while True:
            mark = closing or _opening(rest)
            if not mark or mark not in rest:
                break
            rest = rest.split(mark, 1)[1]
            closing = "" if closing else mark


def _opening(line: str) -> str:
    """The mark that opens a multi-line string in this line; a comment opens none."""
    found = re.match(r"""(?:[^"'#]|"(?!"")(?:\\.|[^"\\])*"|'(?!'')[^']*')*(\"{3}|'{3})""", line)
    return found[1] if found else ""
