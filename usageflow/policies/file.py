"""The policy file: TOML in; policies, examples, exemptions and problems with their lines out.

One bad policy never takes the others down. Takes the text; reading the file is the caller's. The
TOML reader gives no line numbers, so `_Places` finds where tables and keys begin.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError

from usageflow.errors import PolicyFileError
from usageflow.policies.claims import Claims
from usageflow.policies.document import canonical
from usageflow.policies.examples import Example
from usageflow.policies.exemptions import Exemption
from usageflow.policies.models import Metric, Policy
from usageflow.policies.problems import explain, title
from usageflow.policies.suggestions import did_you_mean

_TABLES: Final = ("policy", "metric", "example", "exempt")
_VERSION_DIGITS: Final = 12
_HEADER = re.compile(rf"\s*\[\[\s*({'|'.join(_TABLES)})\s*\]\]")
_SUBTABLE = re.compile(rf"""\s*\[{{1,2}}\s*(?:{"|".join(_TABLES)})\s*\.\s*["']?([\w-]+)""")
_OTHER_TABLE = re.compile(r"""\s*\[{1,2}\s*["']?([\w-]+)""")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*[=.]""")
_PLACE = re.compile(r" \(at line (\d+), column (\d+)\)$")

Table = TypeVar("Table", Metric, Policy, Example, Exemption)


class PolicyFile(NamedTuple):
    """The valid policies with their versions, the declared metrics, and one line per problem.

    `examples` and `exemptions` are for tests and for the coverage of an app; they meter nothing.
    `left_out` has the names of policies that are wrong, as far as they have one.
    """

    policies: tuple[tuple[Policy, str], ...]
    problems: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()
    examples: tuple[Example, ...] = ()
    exemptions: tuple[Exemption, ...] = ()
    left_out: frozenset[str] = frozenset()


def parse(text: str, source: str) -> PolicyFile:
    """Read a policy file's text; `source` is its name in messages.

    Raises PolicyFileError with FILE:LINE:COLUMN if it is empty or not TOML; everything else is a
    problem in the result, `FILE:LINE: policy "chat" (#2): quantity: message`.
    """
    if not text.strip():
        # An editor may be between emptying the file and writing it.
        raise PolicyFileError(source, [f"{source}:1:1: is empty; a comment says that it is meant"])
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
        self._left_out: set[str] = set()
        self._metrics: dict[str, Metric] = {}
        self._claims = Claims()

    def result(self) -> PolicyFile:
        for key in self._tables:
            if key not in _TABLES:
                self._tell(
                    self._places.top(key), f'"{key}" is not known{did_you_mean(key, _TABLES)}'
                )
        for number, metric in self._read("metric", Metric):
            self._declare(number, metric)
        policies = [
            policy for number, policy in self._read("policy", Policy) if self._fits(number, policy)
        ]
        examples = tuple(example for _, example in self._read("example", Example))
        exemptions = tuple(exemption for _, exemption in self._read("exempt", Exemption))
        problems = sorted(self._problems, key=lambda problem: problem[0])
        return PolicyFile(
            tuple((policy, version_of(policy)) for policy in policies),
            tuple(f"{self._source}:{line}: {text}" for line, text in problems),
            tuple(self._metrics.values()),
            examples,
            exemptions,
            frozenset(self._left_out),
        )

    def _read(self, kind: str, model: type[Table]) -> Iterator[tuple[int, Table]]:
        """The valid tables of a kind with their numbers; the problems of the others are told."""
        tables = self._tables.get(kind, [])
        if not isinstance(tables, list):
            self._tell(self._places.top(kind), f"{kind}: write [[{kind}]], with two brackets")
            return
        for number, table in enumerate(tables, start=1):
            try:
                valid = model.model_validate(table)
            except ValidationError as error:
                for key, text in explain(error, model):
                    self._blame(kind, number, key, text)
            else:
                yield number, valid

    def _declare(self, number: int, metric: Metric) -> None:
        if metric.key in self._metrics:
            self._blame("metric", number, "key", f'key: "{metric.key}" is declared twice')
        self._metrics.setdefault(metric.key, metric)

    def _fits(self, number: int, policy: Policy) -> bool:
        """Whether the metric is declared and no earlier policy claims the same."""
        problem = self._undeclared(policy) or self._claims.make(policy)
        if problem is not None:
            self._blame("policy", number, problem[0], ": ".join(problem))
        return problem is None

    def _undeclared(self, policy: Policy) -> tuple[str, str] | None:
        if "metric" not in self._tables or policy.metric in self._metrics:
            return None
        hint = did_you_mean(policy.metric, self._metrics)
        return "metric", f'"{policy.metric}" is not declared as a [[metric]]{hint}'

    def _blame(self, kind: str, number: int, key: str, text: str) -> None:
        """Tell what is wrong with a key of a table, with the table's name if it has one."""
        table = self._tables[kind][number - 1]
        if kind == "policy" and isinstance(table, dict):
            self._left_out.add(str(table.get("name")))
        named = title(table, number)
        line = self._places.line(kind, number, key)
        self._tell(line, f"{kind}{named.removeprefix('policy')}: {text}")

    def _tell(self, line: int, text: str) -> None:
        self._problems.append((line, text))


class _Places:
    """The line of each table of the known kinds and of the keys within it.

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
