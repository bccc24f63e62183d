"""The error tree: as drawn, and the only one."""

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import usageflow
from usageflow import errors
from usageflow.errors import (
    ConfigurationError,
    DeliveryError,
    PolicyFileError,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
    UsageFlowError,
)

SOURCE = Path(usageflow.__file__).parent
EXCEPTIONS = {
    name
    for module in (builtins, errors)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}


def descendants(kind: type[UsageFlowError]) -> Iterator[type[UsageFlowError]]:
    """The class and all below it, in the order they are written."""
    yield kind
    for child in kind.__subclasses__():
        yield from descendants(child)


def drawn() -> list[tuple[int, str]]:
    """(depth, name) of each line of the tree in the module's docstring."""
    found = re.findall(r"^((?:[│├└─ ]{4})*)(\w+)(?:  .*)?$", errors.__doc__ or "", re.MULTILINE)
    return [(len(branch) // 4, name) for branch, name in found]


def test_the_tree_is_as_drawn() -> None:
    """The docstring shows every error, below the one it is a kind of."""
    real = [
        (len(kind.__mro__) - len(UsageFlowError.__mro__), kind.__name__)
        for kind in descendants(UsageFlowError)
        if kind.__module__ == errors.__name__
    ]
    assert drawn() == real


def test_nobody_else_defines_exceptions() -> None:
    """One tree, in one module."""
    strays = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: {node.name}"
        for path in SOURCE.rglob("*.py")
        if path != SOURCE / "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for parent in node.bases
        if ast.unparse(parent).rpartition(".")[2] in EXCEPTIONS
        or ast.unparse(parent).endswith(("Error", "Exception"))
    ]
    assert strays == []


def test_each_error_has_a_code_of_its_own() -> None:
    """Machines tell errors apart by `code`."""
    codes = [kind.code for kind in descendants(UsageFlowError)]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)


def test_a_policy_file_error_lists_its_problems() -> None:
    """All of them, one for each line of the message; and it is a matter of configuration."""
    error = PolicyFileError("p.toml", ["p.toml:1: one", "p.toml:2: two"])
    assert (error.source, error.problems) == ("p.toml", ("p.toml:1: one", "p.toml:2: two"))
    assert str(error) == "p.toml:1: one\np.toml:2: two"
    assert isinstance(error, ConfigurationError)


def test_a_delivery_error_tells_what_to_do() -> None:
    """Whether the key was refused, and how long the ledger wants to be left alone."""
    plain = DeliveryError("no connection")
    assert (str(plain), plain.retry_after_s, plain.refused) == ("no connection", None, False)
    told = DeliveryError("busy", retry_after_s=2.5, refused=True)
    assert (told.retry_after_s, told.refused) == (2.5, True)


@pytest.mark.parametrize(
    ("kind", "status"), [(UpstreamError, 502), (UpstreamUnreachable, 502), (UpstreamTimeout, 504)]
)
def test_an_upstream_error_has_its_status(kind: type[UpstreamError], status: int) -> None:
    """The proxy answers with it."""
    assert kind.status == status
