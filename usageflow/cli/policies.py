"""`usageflow policies`: judge a policy file, and publish it in a server's database."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import DatabaseOption, server_settings
from usageflow.errors import PolicyFileError

if TYPE_CHECKING:
    from usageflow.policies import PolicyFile

app = typer.Typer(help="Check and publish policy files.", no_args_is_help=True)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="policy file (TOML)", show_default=False)
]


@app.command()
def check(file: FileArgument) -> None:
    """Report every problem of a policy file; exit 1 if any."""
    try:
        policies = [policy for policy, _ in sound_file(file).policies]
    except PolicyFileError as error:
        print(error)
        raise typer.Exit(1) from None
    metrics = {policy.metric for policy in policies}
    print(
        f"{_count(len(policies), 'policy', 'policies')}, "
        f"{_count(len(metrics), 'metric', 'metrics')}: ok"
    )


@app.command()
def push(file: FileArgument, database: DatabaseOption = None) -> None:
    """Make a policy file the server's policies; edges follow."""
    from usageflow.catalog.organizations import default_organization
    from usageflow.catalog.policies import publish
    from usageflow.db.session import Database

    published = sound_file(file)
    with closing(Database.open(server_settings(database=database).database)) as db:
        db.migrate()
        with db.transaction() as tx:
            policies = [policy for policy, _ in published.policies]
            done = publish(tx, default_organization(tx), policies, published.metrics)
    for what in ("added", "changed", "removed", "unchanged"):
        for name in getattr(done, what):
            print(f"{what} policy {name}")
    for key in done.metrics:
        print(f"added metric {key}")


def sound_file(file: Path) -> "PolicyFile":
    """A policy file that has no problem at all; otherwise raises PolicyFileError.

    Publishing half a file would take the other half out of use without a word.
    """
    from usageflow.policies import parse_file

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyFileError(str(file), [f"{file}: cannot be read: {error}"]) from None
    parsed = parse_file(text, str(file))
    if parsed.problems:
        raise PolicyFileError(str(file), parsed.problems)
    return parsed


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
