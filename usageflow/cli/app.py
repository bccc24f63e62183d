"""The list of commands, and what a person sees when one fails.

Exit status: 0 done, 1 it could not be done (one message on stderr, never a traceback), 2 the
command line itself is wrong.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer

from usageflow._version import __version__
from usageflow.cli import (
    audit,
    config,
    demo,
    emulator,
    endpoints,
    inbox,
    invoices,
    keys,
    ledger,
    migrate,
    organizations,
    policies,
    proxy,
    reconcile,
    secrets,
    serve,
    spool,
    statement,
    stripe,
    up,
    usage,
)
from usageflow.cli.tables import printed_lines
from usageflow.errors import UsageFlowError

app = typer.Typer(
    name="usageflow",
    help="Meter any HTTP API durably, and bill for it: by own invoices or through Stripe.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.command("proxy")(proxy.proxy)
app.command("demo", add_help_option=False, context_settings=demo.PASS_THROUGH)(demo.demo)
app.command("usage")(usage.usage)
app.command("statement")(statement.statement)
app.add_typer(reconcile.app, name="reconcile")
app.add_typer(inbox.app, name="inbox")
app.command("endpoints")(endpoints.endpoints)
app.add_typer(keys.app, name="keys")
app.add_typer(organizations.app, name="organizations")
app.add_typer(policies.app, name="policies")
app.add_typer(stripe.app, name="stripe")
app.add_typer(secrets.app, name="secrets")
app.command("spool")(spool.spool)
app.add_typer(audit.app, name="audit")
app.add_typer(invoices.app, name="invoices")
app.add_typer(ledger.app, name="ledger")
app.command("stripe-emulator")(emulator.stripe_emulator)
app.command("migrate")(migrate.migrate)
app.command("config")(config.config)

_EXTRAS: Final = {
    "psycopg": "postgres",
    "uvloop": "proxy",
    **dict.fromkeys(
        (
            *("uvicorn", "httptools", "starlette", "sqlmodel", "sqlalchemy", "alembic"),
            *("stripe", "urllib3", "jsonschema", "fastapi", "jinja2", "argon2"),
            *("standardwebhooks", "typst", "limits", "httpcore", "tzdata"),
        ),
        "server",
    ),
}
"""Which extra brings a package that a command may find missing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line (default: the process's) and exit with its status."""
    given = sys.argv[1:] if arguments is None else arguments
    for number, argument in enumerate(given, start=1):
        if not _is_text(argument):
            _fail(f"argument {number} is not UTF-8", status=2)
    try:
        app(given, prog_name="usageflow")
    except UsageFlowError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _fail(f"this needs {package}: pip install 'usageflow[{_EXTRAS[package]}]'")


def _is_text(argument: str) -> bool:
    """Whether it was UTF-8: what was not can be neither stored nor sent."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"usageflow: {printed_lines(message)}", file=sys.stderr)
    sys.exit(status)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"usageflow {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""
