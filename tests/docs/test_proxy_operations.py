"""The page about running the proxy: every metric, field and reason on it is one of the code."""

import re
from pathlib import Path
from typing import Any

import msgspec

from usageflow.cli.config_file import parse
from usageflow.config import Settings
from usageflow.proxy import access_log, admin, gateway, transit
from usageflow.proxy.figures import Health, Reading
from usageflow.proxy.metrics import exposition, server_timing
from usageflow.recorder.inspection import NOTHING

PAGE = Path(__file__).parents[2] / "docs" / "proxy-operations.md"
TEXT = PAGE.read_text(encoding="utf-8")
FAMILY = re.compile(r"# HELP (\S+) (.+)\n# TYPE \S+ (\w+)\n\S+?(?:\{(\w+)=.*)? \S+\n")


def rows_of(header: str) -> list[list[str]]:
    """The cells of a table on the page."""
    _, found, rest = TEXT.partition(f"| {header} |\n")
    assert found, header
    lines = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def block(language: str) -> str:
    """The one block in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_is_a_configuration() -> None:
    """What a user copies can be read."""
    found = {name: placed.value for name, placed in parse(block("toml"), "usageflow.toml").items()}
    settings = Settings.read({}, file={**found, "api_key": "from the environment"})
    assert settings.workers == 2
    assert settings.upstream == "http://10.0.0.5:9000,http://10.0.0.6:9000"


def test_every_metric_is_listed() -> None:
    """By name, label, type and meaning, in the order in which they are served."""
    served = exposition(Reading.blank(["http://api"]), NOTHING, now_s=0, version="1")
    expected = [
        [f"`{name}{f'{{{label}}}' if label not in ('', 'le') else ''}`", kind, meaning]
        for name, meaning, kind, label in FAMILY.findall(served)
    ]
    assert len(expected) == served.count("# HELP")
    table = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    assert rows_of("metric | type | meaning") == expected, f"the page must have\n\n{table}"


def test_metrics_in_the_text_exist() -> None:
    """What is worth an alert is measured."""
    served = exposition(Reading.blank(["http://api"]), NOTHING, now_s=0, version="1")
    for name in re.findall(r"`(usageflow_\w+)", TEXT):
        assert f"# HELP {name} " in served


def test_every_field_of_the_log_is_explained() -> None:
    """In their order; and the line that is shown is one."""
    names = [item.name for item in msgspec.structs.fields(access_log.Line)]
    assert [cell.strip("`") for cell, _ in rows_of("field | what it is")] == names
    shown: dict[str, Any] = msgspec.json.decode(block("json"))
    assert list(shown) == names
    msgspec.convert(shown, access_log.Line, strict=True)
    assert f"at most {access_log.PATH_CHARS_MAX:,} characters" in TEXT


def test_every_reason_not_to_be_ready_is_explained() -> None:
    """Those of a proxy for which nothing is well."""
    ill = Health(ticked_s=1.0, draining=True, refusing=True)
    reasons = [*admin.unready(Health(), now_s=1.0), *admin.unready(ill, now_s=1.0)]
    assert [cell.strip("`") for cell, _ in rows_of("reason | what it means")] == reasons
    assert f"has not run for {admin.STUCK_S:.0f} s" in TEXT


def test_the_paths_of_the_admin_port() -> None:
    """All that it answers."""
    source = Path(admin.__file__).read_text(encoding="utf-8")
    paths = [cell.strip("`") for cell, *_ in rows_of("path | 200 | 503")]
    assert paths == re.findall(r'path == "(/\w+)"', source)


def test_what_is_sent_again() -> None:
    """The methods of the page are those of the code."""
    (said,) = re.findall(r"not a byte came back, a\s(.*?) without a body", TEXT, re.DOTALL)
    assert {name.encode() for name in re.findall(r"`(\w+)`", said)} == transit.REPLAYABLE


def test_numbers_are_the_code_s() -> None:
    """Times of stopping, and what a Server-Timing looks like."""
    text = " ".join(TEXT.split())
    settings = Settings()
    for said in (
        f"a connection that rests ends within {gateway.DRAIN_IDLE_S:.0f} s",
        f"`USAGEFLOW_DRAIN_TIMEOUT_S` ({settings.drain_timeout_s:.0f} s)",
        f"`USAGEFLOW_POLICY_WAIT_S` ({settings.policy_wait_s:.0f} s)",
        f"`USAGEFLOW_TLS_POLL_S` ({settings.tls_poll_s:.0f} s)",
        f"again every {settings.dns_refresh_s:.0f} s",
        f"`Server-Timing: {server_timing(0.004464).decode()}`",
    ):
        assert said in text, said
