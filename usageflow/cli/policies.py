"""`usageflow policies`: judge policy files, try them on examples and on an app, publish them."""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usageflow.cli.options import DatabaseOption, server_settings, setting
from usageflow.cli.scope import OrganizationOption, scope
from usageflow.cli.tables import printed_lines
from usageflow.errors import ConfigurationError, PolicyFileError

if TYPE_CHECKING:
    from usageflow.policies import Policy, PolicyFile
    from usageflow.policies.surroundings import Surroundings

app = typer.Typer(help="Check, test and publish policy files.", no_args_is_help=True)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="policy file (TOML)", show_default=False)
]
PathRulesOption = Annotated[str | None, setting("path_rules")]


@app.command()
def check(file: FileArgument) -> None:
    """Report every problem of a policy file; exit 1 if any."""
    try:
        policies = [policy for policy, _ in sound_file(file).policies]
    except PolicyFileError as error:
        print(printed_lines(str(error)))
        raise typer.Exit(1) from None
    metrics = {policy.metric for policy in policies}
    print(
        f"{_count(len(policies), 'policy', 'policies')}, "
        f"{_count(len(metrics), 'metric', 'metrics')}: ok"
    )
    surroundings = _surroundings(None)
    for policy in policies:
        for note in _notes(policy, surroundings):
            print(f'note: policy "{policy.name}": {note}')


@app.command("test")
def run_examples(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="policy files", show_default=False)
    ],
    path_rules: PathRulesOption = None,
) -> None:
    """Run the examples in policy files; exit 1 if one fails or a file has none."""
    surroundings = _surroundings(path_rules)
    passed = [_examples_pass(file, surroundings) for file in files]
    if not all(passed):
        raise typer.Exit(1)


@app.command()
def coverage(
    target: Annotated[
        str,
        typer.Argument(
            metavar="APP_OR_OPENAPI",
            help="module:attribute, module:factory() or an OpenAPI file",
            show_default=False,
        ),
    ],
    *,
    policies: Annotated[
        Path, typer.Option("--policies", metavar="FILE", help="policy file (TOML)")
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="exit 1 if a route is partly metered or uncovered")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    host: Annotated[
        str | None, typer.Option(help="host that requests name, for policies with a host")
    ] = None,
    path_rules: PathRulesOption = None,
) -> None:
    """List which routes of an app are metered, exempt with a reason, or uncovered."""
    from usageflow.cli.app_routes import routes_of
    from usageflow.cli.coverage import print_json, print_tables
    from usageflow.policies.coverage import cover

    file = sound_file(policies)
    found = cover(
        routes_of(target),
        file.policies,
        file.exemptions,
        surroundings=_surroundings(path_rules),
        host=host,
    )
    if as_json:
        print_json(found)
    else:
        print_tables(
            found, shadow={each.name for each, _ in file.policies if each.mode == "shadow"}
        )
    if strict and any(each.missed is not None for each in found.routes):
        raise typer.Exit(1)


@app.command()
def push(
    file: FileArgument,
    organization: OrganizationOption = "default",
    database: DatabaseOption = None,
) -> None:
    """Make a policy file the server's policies; edges follow."""
    from usageflow.billing.publishing import publish
    from usageflow.catalog.audit import CLI

    published = sound_file(file)
    with scope(database, organization, new=True) as found, found.db.transaction() as tx:
        policies = [policy for policy, _ in published.policies]
        done = publish(tx, found.organization_id, policies, published.metrics, actor=CLI)
    for what in ("added", "changed", "removed", "unchanged"):
        for name in getattr(done, what):
            print(f"{what} policy {name}")
    for key in done.metrics:
        print(f"added metric {key}")


@app.command("hash-key")
def hash_key(
    secret: Annotated[
        str | None,
        typer.Option(metavar="env:NAME", help="the secret of the policy's source, by its variable"),
    ] = None,
) -> None:
    """Print what stands for an API key in a policy; the key is read from standard input."""
    from usageflow.policies.api_keys import digest
    from usageflow.policies.environment import resolved, secret_reference
    from usageflow.policies.reason import Reason

    try:
        keyed = None if secret is None else resolved(secret_reference(secret), os.environ)
    except ValueError as error:
        raise ConfigurationError(f"--secret {error}") from None
    if isinstance(keyed, Reason):
        raise ConfigurationError(keyed.text)
    key = _read_key()
    if not key:
        raise ConfigurationError("no key: type it, or pipe it into this command")
    print(digest(key, keyed))


def sound_file(file: Path) -> "PolicyFile":
    """A policy file that has no problem at all; otherwise raises PolicyFileError.

    Publishing half a file would take the other half out of use without a word.
    """
    from usageflow.policies import parse_file

    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PolicyFileError(str(file), [f"{file}: cannot be read: {reason}"]) from None
    parsed = parse_file(text, str(file))
    if parsed.problems:
        raise PolicyFileError(str(file), parsed.problems)
    return parsed


def _examples_pass(file: Path, surroundings: "Surroundings") -> bool:
    """Print the outcome of each example and what they leave out; whether all is as expected."""
    from usageflow.middleware.rehearsal import rehearse
    from usageflow.policies import PolicySet
    from usageflow.policies.examples import differences, without_example

    parsed = sound_file(file)
    policies = PolicySet.build(parsed.policies, surroundings)
    failed = 0
    for example in parsed.examples:
        found = differences(example, rehearse(policies, example, now=datetime.now(UTC)))
        failed += bool(found)
        print(f"{'FAILED' if found else 'ok    '}  {example.name}")
        for line in found:
            print(f"        {line}")
    for name in without_example((policy for policy, _ in parsed.policies), parsed.examples):
        print(f'note: policy "{name}" has no example')
    print(f"{file}: {_count(len(parsed.examples), 'example', 'examples')}, {failed} failed")
    return bool(parsed.examples) and not failed


def _notes(policy: "Policy", surroundings: "Surroundings") -> Iterator[str]:
    """What a person should know of a policy that is right."""
    from usageflow.policies.identity import surroundings_problems
    from usageflow.policies.routes import REGISTERED_METHODS
    from usageflow.policies.suggestions import did_you_mean

    if policy.mode != "live":
        rule = {"shadow": "recorded, never billed", "off": "matches nothing"}[policy.mode]
        yield f'mode = "{policy.mode}": {rule}'
    for number, source in enumerate(policy.identify, start=1):
        if getattr(source, "unverified", False):
            yield f"identify[{number}]: unverified = true: callers can claim to be anyone"
    if policy.include_usage:
        yield "include_usage = true: requests and streams are changed"
    for method in sorted({name for route in policy.routes for name in route.methods or ()}):
        if method not in REGISTERED_METHODS:
            hint = did_you_mean(method, REGISTERED_METHODS)
            yield f"match: {method} is no registered method{hint}"
    yield from surroundings_problems(policy, surroundings)


def _surroundings(path_rules: str | None) -> "Surroundings":
    """What an edge with this environment has; no key server is asked."""
    from usageflow.policies.paths import PathRules
    from usageflow.policies.surroundings import Surroundings

    wanted = server_settings(path_rules=path_rules).path_rules
    try:
        return Surroundings(environ=os.environ, path_rules=PathRules.parse(wanted))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _read_key() -> str:
    """One line: typed without being shown, or piped."""
    if sys.stdin.isatty():
        return str(typer.prompt("API key", hide_input=True, err=True))
    return sys.stdin.buffer.readline().rstrip(b"\r\n").decode(errors="surrogateescape")


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
