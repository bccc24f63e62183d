"""The configuration file, `usageflow.toml`: from its text to values by field, and a complete one.

It holds what `Settings` has, by the same names, in the sections of `SECTIONS`. What goes before it
(flags and the environment) is decided in `Settings.read`; which file is read, in `options`.
"""

import logging
import re
import stat
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import date, time
from pathlib import Path
from typing import Any, Final, NamedTuple

from usageflow.config import Settings, kind_of, problem_of, variable
from usageflow.errors import ConfigurationError

SECTIONS: Final = {
    "edge": ("server", "The edge: what the proxy and the middleware have in common"),
    "proxy": ("listen", "The proxy, towards its clients"),
    "upstream": ("upstream", "The proxy, towards the API"),
    "hops": ("hop_key", "Edges that stand behind one another"),
    "server": ("database", "The server"),
    "stripe": ("stripe_api_key", "Stripe"),
}
"""The groups of `Settings`: the field each begins with (it reaches to the next), and a title."""
LISTS: Final = frozenset(
    {"upstream", "trusted_proxies", "path_rules", "stripe_webhook_secrets", "encryption_keys"}
)
"""Settings of several values, separated by commas elsewhere: here they may be lists."""
TEMPLATE_HEAD: Final = """\
# usageflow.toml: every setting, its meaning and its default. `usageflow config` prints this file.
#
# A command line option goes before a variable of the environment, that before this file, and this
# file before the default. The variable of `port` is USAGEFLOW_PORT, and so on. Relative paths are
# relative to the directory that the command is started in. Times are seconds, sizes are bytes.
#
# To change a setting, take the # before it away. Those with "none" have no value by default.
# `usageflow config --check usageflow.toml` finds mistakes and shows what is in force.
"""
WIDTH: Final = 100

_FIELDS: Final = {item.name: item for item in fields(Settings)}
_HEADER = re.compile(r"""\s*\[\s*["']?([\w-]+)["']?\s*\]""")
_KEY = re.compile(r"""\s*["']?([\w-]+)["']?\s*=""")
_PASSWORD = re.compile(r"(?<=://)([^/@]*):[^/@]*(?=@)")
_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column \d+\)")
_TYPES: Final = (
    (bool, "true or false"),
    (int, "a whole number"),
    (float, "a number with a fraction"),
    (str, "text"),
    (list, "a list"),
    (dict, "a table"),
    ((date, time), "a date or a time"),
)
"""TOML's words for what a value is; bool before int, which it is one of in Python."""

log = logging.getLogger("usageflow.config")


def _sections() -> dict[str, str]:
    """Field -> section, in the order of the fields."""
    begins = {first: section for section, (first, _) in SECTIONS.items()}
    found, section = {}, ""
    for name in _FIELDS:
        section = begins.get(name, section)
        found[name] = section
    return found


_SECTIONS: Final = _sections()


class Placed(NamedTuple):
    """A value of a file and where it stands, such as `usageflow.toml:12`."""

    value: Any
    place: str


def section_of(name: str) -> str:
    """The section that a field belongs to."""
    return _SECTIONS[name]


def read(path: Path) -> dict[str, Placed]:
    """The settings of a file by field; one that others may read although it has secrets is told.

    Raises ConfigurationError if it cannot be read, and with a line for each mistake in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"cannot read the configuration file {path}: {reason}") from None
    found = parse(text, str(path))
    secrets = [name for name, given in found.items() if masked(name, given.value) != given.value]
    if secrets and mode & stat.S_IROTH:
        log.warning(
            "%s holds %s, and every user of this machine may read it: chmod o= %s",
            *(path, " and ".join(secrets), path),
        )
    return found


def parse(text: str, source: str) -> dict[str, Placed]:
    """The settings of a file's text by field; `source` is its name in messages.

    An empty text or list counts as not written, as an empty variable does. Raises
    ConfigurationError with `FILE:LINE: message` for each mistake.
    """
    tables, lines = _load(text, source), _lines(text)
    found: dict[str, Placed] = {}
    problems: list[tuple[int, str]] = []
    for section, name, value in _entries(tables):
        line = lines.get((section, name), lines.get((section, ""), 1))
        problem = _misplaced(section, name) or _unfit(name, value)
        if problem is not None:
            problems.append((line, problem))
        elif value not in ("", []):
            joined = ",".join(value) if isinstance(value, list) else value
            found[name] = Placed(joined, f"{source}:{line}")
    if problems:
        told = [f"{source}:{line}: {problem}" for line, problem in sorted(problems)]
        raise ConfigurationError("\n".join(told))
    return found


def template() -> str:
    """A complete file, in which everything is a comment but the names of the sections."""
    return TEMPLATE_HEAD + "".join(
        _template_of_section(section, [name for name in _SECTIONS if _SECTIONS[name] == section])
        for section in SECTIONS
    )


def masked(name: str, value: Any) -> Any:
    """A value as it may be shown: of a secret that is a URL all but the password, else nothing."""
    if value is None or not _FIELDS[name].metadata["secret"]:
        return value
    return _PASSWORD.sub(r"\1:********", value) if "://" in value else "********"


def in_force(settings: Settings, places: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(field, value, where it comes from) of every setting; secrets are masked."""
    return [
        (name, _shown(masked(name, getattr(settings, name))), places.get(name, "default"))
        for name in _FIELDS
    ]


def _load(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        placed = _TOML_PLACE.fullmatch(str(error))
        line = placed[2] if placed else len(text.splitlines())
        raise ConfigurationError(f"{source}:{line}: {placed[1] if placed else error}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{source}:1: a number or a nesting is too long") from None


def _entries(tables: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(section, key, value); what is no section, or in none, is of the section ""."""
    for section, content in tables.items():
        if section in SECTIONS and isinstance(content, dict):
            for name, value in content.items():
                yield section, name, value
        else:
            yield "", section, content


def _lines(text: str) -> dict[tuple[str, str], int]:
    """Where keys and (as the key "") sections begin.

    A scan, not a parser: how no person writes it (dotted keys), the section's line has to do.
    """
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            section = header[1] if header[1] in SECTIONS else ""
            found.setdefault((section, "" if section else header[1]), number)
        elif key := _KEY.match(line):
            found.setdefault((section, key[1]), number)
    return found


def _misplaced(section: str, name: str) -> str | None:
    """What is wrong with a key at this place."""
    from usageflow.policies.suggestions import did_you_mean

    if _SECTIONS.get(name) == section:
        return None
    if not section and name in SECTIONS and name not in _SECTIONS:
        return f"write [{name}]: it is a section"
    if name in _SECTIONS:
        return f"{name} belongs in [{_SECTIONS[name]}]"
    if section:
        return f"{name} is not known{did_you_mean(name, _SECTIONS)}"
    hint = did_you_mean(name, [*SECTIONS, *_SECTIONS])
    return f"{name} is not known{hint or '; the sections are ' + ', '.join(SECTIONS)}"


def _unfit(name: str, value: Any) -> str | None:
    """What is wrong with the value of a known field; the value itself is shown only if it may."""
    if name in LISTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return None
    if value == "":
        return None
    kind = kind_of(name)
    expected = kind if isinstance(kind, type) else str
    takes = (int, float) if expected is float else (expected,)
    if isinstance(value, bool) or not isinstance(value, takes):
        return f"{name} must be {_wanted(name)}, not {_type_of(value)}"
    problem = problem_of(name, value)
    return None if problem is None else f"{name} {problem}"


def _wanted(name: str) -> str:
    kind = kind_of(name)
    if isinstance(kind, tuple):
        return "one of " + ", ".join(f'"{word}"' for word in kind)
    text = "text or a list of texts" if name in LISTS else "text"
    return {int: "a whole number", float: "a number"}.get(kind, text)


def _type_of(value: Any) -> str:
    return next(word for types, word in _TYPES if isinstance(value, types))


def _template_of_section(section: str, names: list[str]) -> str:
    lines = ["", "", f"# {SECTIONS[section][1]}", f"[{section}]"]
    for name in names:
        lines += ["", *_described(name), f"#{name} = {_default(name)}"]
    return "\n".join(lines) + "\n"


def _described(name: str) -> list[str]:
    item = _FIELDS[name]
    kind = kind_of(name)
    doc = item.metadata["doc"]
    if isinstance(kind, tuple):
        doc += f" ({' or '.join(kind)})"
    if name in LISTS:
        doc += " (text, or a list of texts)"
    if item.metadata["secret"]:
        doc += f" (secret: better in the environment, as {variable(name)})"
    return textwrap.wrap(
        doc, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _default(name: str) -> str:
    default = _FIELDS[name].default
    return f'"{default}"' if isinstance(default, str) else _shown(default)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
