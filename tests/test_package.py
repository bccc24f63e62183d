"""What is shipped: a light import, a small public face, pinned locks, and a wheel that is whole."""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.metadata import requires
from pathlib import Path

import pytest

import usageflow

ROOT = Path(usageflow.__file__).parents[1]
LIGHT_NEVER_LOADS = (
    "sqlmodel", "sqlalchemy", "stripe", "starlette", "fastapi", "httpx", "uvicorn", "jinja2",
)  # fmt: skip
"""Design, section 4."""
WATCHED = """
import sys, traceback
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in {forbidden!r}:
            print(name, "is imported by:")
            for frame in traceback.extract_stack()[:-1]:
                if "<" not in frame.filename:
                    print(f"  {{frame.filename}}:{{frame.lineno}}: {{frame.line}}")
sys.meta_path.insert(0, Watch())
{code}
"""
"""Runs `code` and prints the chain of imports that leads to each forbidden module."""


def run(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] = {}
) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=os.environ | env,
    )


def imports_of(code: str, forbidden: tuple[str, ...]) -> str:
    """The chains by which `code` imports what is forbidden; empty if it does not."""
    ended = run("-c", WATCHED.format(forbidden=forbidden, code=code))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import usageflow",
        "import usageflow.policies",
        "import usageflow.recorder",
        "import usageflow.middleware",
        "from usageflow import Policy, UsageEvent, UsageFlowMiddleware",
    ],
)
def test_the_edge_is_light(code: str) -> None:
    """An app that meters pays for no database, no Stripe and no web framework."""
    chains = imports_of(code, LIGHT_NEVER_LOADS)
    assert not chains, chains


def test_the_watch_sees_an_import() -> None:
    """The trial above would fail: a server room names the module and the line that imports it."""
    chains = imports_of("import usageflow.ledger.usage", ("sqlalchemy",))
    assert re.match(r"sqlalchemy is imported by:\n", chains)
    assert re.search(r"usageflow/ledger/\w+\.py:\d+: (from|import) ", chains)


def test_help_answers_without_the_heavy_packages() -> None:
    """The list of commands costs no database and no Stripe."""
    code = """
import contextlib, io, runpy
sys.argv = ["usageflow", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    runpy.run_module("usageflow", run_name="__main__")
assert "stripe-emulator" in shown.getvalue()
"""
    chains = imports_of(code, (*LIGHT_NEVER_LOADS, "alembic", "requests"))
    assert not chains, chains


def test_the_public_names() -> None:
    """Sorted, each there, and shown by dir()."""
    assert usageflow.__all__ == sorted(usageflow.__all__)
    assert dir(usageflow) == usageflow.__all__
    for name in usageflow.__all__:
        assert getattr(usageflow, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module; `hasattr` and `from ... import` rely on it."""
    with pytest.raises(AttributeError, match="module 'usageflow' has no attribute 'Meter'"):
        usageflow.Meter  # noqa: B018 - the access is the test
    with pytest.raises(ImportError, match="cannot import name 'Meter'"):
        from usageflow import Meter  # noqa: F401 - it does not exist


def test_the_changelog_knows_this_version() -> None:
    """Its newest heading is what the package calls itself."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^\]]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest is not None
    assert newest[1] == usageflow.__version__


@pytest.mark.parametrize("name", ["all.txt", "dev.txt"])
def test_locks_are_pinned_by_hash_and_name_no_index(name: str) -> None:
    """What is installed is what was reviewed, from whatever index the user has."""
    lock = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    pins = re.findall(
        r"^[\w.\[\]-]+==\S+.* \\\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)+", lock, re.MULTILINE
    )
    entries = [line for line in lock.splitlines() if line and line[0] not in " #"]
    assert len(pins) == len(entries) > 0
    assert "://" not in lock
    assert "-index" not in lock
    assert "--find-links" not in lock


def test_an_app_installs_five_packages() -> None:
    """The light part's dependencies; everything else is an extra."""
    core = [text for text in requires("usageflow") or () if "extra ==" not in text]
    names = {re.split(r"[^\w-]", text)[0] for text in core}
    assert names == {"pydantic", "jmespath", "pyjwt", "msgspec", "uuid-utils"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    ended = run("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_has_its_data(wheel: Path) -> None:
    """Files that are not Python are easily forgotten."""
    package = wheel / "usageflow"
    for name in (
        "py.typed",
        "demo/policies.toml",
        "db/migrations/script.py.mako",
        "db/migrations/versions/0001_first_schema.py",
        "api/templates/portal.css",
        "billing/invoice.typ",
        "stripe/emulator/NOTICE",
        "stripe/emulator/openapi-slice.json",
    ):
        assert (package / name).read_bytes() == (ROOT / "usageflow" / name).read_bytes()


def test_the_wheel_has_nothing_else(wheel: Path) -> None:
    """No tests, no caches, no databases; and its name, version, command and licence."""
    info = f"usageflow-{usageflow.__version__}.dist-info"
    assert {path.name for path in wheel.iterdir()} == {"usageflow", info}
    suffixes = {path.suffix for path in (wheel / "usageflow").rglob("*") if path.is_file()}
    pages, documents = {".html", ".css"}, {".typ"}
    assert suffixes == {".py", ".typed", ".toml", ".mako", ".json", ".md", ""} | pages | documents
    commands = (wheel / info / "entry_points.txt").read_text(encoding="utf-8")
    assert "usageflow = usageflow.__main__:main" in commands
    assert (wheel / info / "licenses" / "LICENSE").is_file()


USE = """
import sys
from pathlib import Path
import usageflow
assert usageflow.__file__.startswith(sys.argv[1]), usageflow.__file__

from usageflow import demo
from usageflow.policies import PolicySet, parse_file
policies = Path(demo.__file__).with_name("policies.toml")
parsed = parse_file(policies.read_text(), "policies.toml")
assert parsed.problems == () and PolicySet.build(parsed.policies).match("GET", "/v1/items/1")

from usageflow.stripe.emulator.app import create_emulator
create_emulator()

from usageflow.db.session import Database
database = Database.open(f"sqlite:///{Path('usageflow.db').resolve()}")
database.migrate()
database.close()
print("works", usageflow.__version__)
"""


def test_the_wheel_works_without_the_source(wheel: Path, tmp_path: Path) -> None:
    """Demo policies, Stripe's API description and the migrations load from what is shipped."""
    ended = run("-c", USE, wheel, cwd=tmp_path, env={"PYTHONPATH": str(wheel)})
    assert (ended.stdout, ended.returncode) == (f"works {usageflow.__version__}\n", 0), ended.stderr
