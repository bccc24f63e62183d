"""`usageflow.toml`: what it may hold, how each mistake is told, and the complete one."""

import logging
import re
import tomllib
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import usageflow
from usageflow import config as settings_module
from usageflow.cli.config_file import LISTS, SECTIONS, in_force, masked, parse, read, section_of
from usageflow.cli.config_file import template as complete
from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError

ROOT = Path(usageflow.__file__).parents[1]
FIELDS = {item.name: item for item in fields(Settings)}
SECRETS = [name for name, item in FIELDS.items() if item.metadata["secret"]]


def values(text: str) -> dict[str, object]:
    """What a file says, without the places."""
    return {name: placed.value for name, placed in parse(text, "f.toml").items()}


def refusal(text: str) -> list[str]:
    """The lines of the message about a file."""
    with pytest.raises(ConfigurationError) as refused:
        parse(text, "f.toml")
    return str(refused.value).splitlines()


def test_sections_mirror_the_groups_of_settings() -> None:
    """Each comment between the fields begins a section."""
    source = Path(settings_module.__file__).read_text(encoding="utf-8")
    body = source[source.index("class Settings") : source.index("def __post_init__")]
    begin = re.findall(r"^    # .+\n    (\w+):", body, re.MULTILINE)
    assert begin == [first for first, _ in SECTIONS.values()]


def test_what_a_file_says() -> None:
    """Each kind of value, where it stands, and nothing that it does not say."""
    text = """
[server]
port = 80            # a comment
[proxy]
"websockets" = "off"
client_linger_s = 3
trusted_proxies = ["10.0.0.0/8", "::1"]
[upstream]
upstream = "http://a:1,http://b:2"
"""
    found = parse(text, "f.toml")
    assert values(text) == {
        "port": 80,
        "websockets": "off",
        "client_linger_s": 3,
        "trusted_proxies": "10.0.0.0/8,::1",
        "upstream": "http://a:1,http://b:2",
    }
    assert found["port"].place == "f.toml:3"
    assert found["websockets"].place == "f.toml:5"


def test_an_empty_value_counts_as_not_written() -> None:
    """As an empty variable of the environment does."""
    assert values('[proxy]\ntls_cert = ""\ntrusted_proxies = []\nrequest_timeout_s = ""') == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[proxy]\nlistn = 1", '2: listn is not known; did you mean "listen"?'),
        ("[server]\n\nlisten = 'x'", "3: listen belongs in [proxy]"),
        ("port = 1", "1: port belongs in [server]"),
        ("[prxy]\nlisten = 'x'", '1: prxy is not known; did you mean "proxy"?'),
        (
            "zzz = 1",
            "1: zzz is not known; the sections are edge, proxy, upstream, hops, server, stripe",
        ),
        ("edge = 1", "1: write [edge]: it is a section"),
        ("[[edge]]\nserver = 'x'", "1: write [edge]: it is a section"),
        ("[server]\nport = '80'", "2: port must be a whole number, not text"),
        ("[server]\nport = 1.5", "2: port must be a whole number, not a number with a fraction"),
        ("[proxy]\nworkers = true", "2: workers must be a whole number, not true or false"),
        ("[proxy]\ntls_poll_s = []", "2: tls_poll_s must be a number, not a list"),
        ("[edge]\nspool_dir = 2020-01-01", "2: spool_dir must be text, not a date or a time"),
        ("[edge]\nserver.x = 1", "1: server must be text, not a table"),
        ("[proxy]\nlisten = ['a']", "2: listen must be text, not a list"),
        ("[upstream]\nupstream = [1]", "2: upstream must be text or a list of texts, not a list"),
        ("[proxy]\nwebsockets = false", '2: websockets must be one of "on", "off", not true or '),
        ("[proxy]\nwebsockets = 'no'", "2: websockets must be one of on, off, not 'no'"),
        ("[proxy]\nworkers = 0", "2: workers must be a number above 0, not 0"),
        ("[stripe]\nstripe_resend_s_max = 1e6", "2: stripe_resend_s_max must stay below 86400"),
        ("[server]\ningest_events_max = 9", "2: ingest_events_max must be at least 500"),
        ("[stripe]\nstripe_api_key = 'pk_S'", "2: stripe_api_key must be a secret or restricted"),
        ("[server]\nport = ", "2: Invalid value"),
        ("[server]\nport = 1\nport = 2", "3: Cannot overwrite a value"),
        ("[server]\nport = 1" + "0" * 5000, "1: a number or a nesting is too long"),
    ],
)
def test_each_mistake_is_told_with_its_line(text: str, message: str) -> None:
    """File, line, field and what is accepted; never the value of a secret."""
    (told,) = refusal(text)
    assert told.startswith(f"f.toml:{message}")
    assert "pk_S" not in told


def test_all_mistakes_are_told_at_once() -> None:
    """In the order of their lines."""
    text = "[stripe]\nstripe_concurrency = 0\n[proxy]\nworkerz = 1\nworkers = 'x'"
    assert [line.partition(" ")[0] for line in refusal(text)] == [
        "f.toml:2:",
        "f.toml:4:",
        "f.toml:5:",
    ]


@given(st.text(max_size=60))
def test_no_text_is_a_fault(text: str) -> None:
    """Whatever a file holds, it is settings or a ConfigurationError."""
    with suppress(ConfigurationError):
        parse(text, "f.toml")


def test_the_complete_file_sets_nothing() -> None:
    """It can be copied as it is; later versions' defaults stay in force."""
    assert set(tomllib.loads(complete())) == SECTIONS.keys()
    assert values(complete()) == {}


def test_the_complete_file_has_every_field_with_its_default() -> None:
    """Uncommented, it is the defaults; what has none says so."""
    text = re.sub(r"(?m)^#(?=\w+ = )(?!.* = none$)", "", complete())
    assert Settings.read({}, file=values(text)) == Settings()
    named = re.findall(r"(?m)^#(\w+) = (.+)$", complete())
    assert [name for name, _ in named] == list(FIELDS)
    assert {name for name, value in named if value == "none"} == {
        name for name, item in FIELDS.items() if item.default is None
    }


def test_the_complete_file_explains_every_field() -> None:
    """With the words of the field itself, and a hint at the environment for secrets."""
    flat = re.sub(r"\n# ", " ", complete())
    for name, item in FIELDS.items():
        assert f"{item.metadata['doc']}" in flat, name
    for name in SECRETS:
        assert f"(secret: better in the environment, as {variable(name)})" in flat
    assert max(map(len, complete().splitlines())) <= 100


def test_the_file_to_deploy_is_the_complete_file() -> None:
    """A failure is mended by `usageflow config > deploy/usageflow.toml`."""
    assert (ROOT / "deploy" / "usageflow.toml").read_text(encoding="utf-8") == complete()


def test_lists_are_the_settings_of_several_values() -> None:
    """Those whose meaning says that commas separate them."""
    assert {
        name for name, item in FIELDS.items() if "comma-separated" in item.metadata["doc"]
    } == LISTS


def test_sections_of_fields() -> None:
    """Each field has one; the first and the last of a group are in it."""
    assert {section_of(name) for name in FIELDS} == SECTIONS.keys()
    assert section_of("drain_timeout_s") == "edge"
    assert section_of("listen") == "proxy"


def test_what_is_in_force() -> None:
    """Every setting, its value and its place; no secret."""
    settings = Settings(
        port=1, stripe_api_key="sk_test_S", database="postgresql://user:S@host/db", hop_key="S" * 16
    )
    rows = {name: rest for name, *rest in in_force(settings, {"port": "f.toml:3"})}
    assert list(rows) == list(FIELDS)
    assert rows["port"] == ["1", "f.toml:3"]
    assert rows["host"] == ["127.0.0.1", "default"]
    assert rows["tls_cert"] == ["none", "default"]
    assert rows["stripe_api_key"][0] == rows["hop_key"][0] == "********"
    assert rows["database"][0] == "postgresql://user:********@host/db"


def test_a_database_without_a_password_is_no_secret() -> None:
    """The path of a file helps to understand what is in force."""
    assert masked("database", "sqlite:///usageflow.db") == "sqlite:///usageflow.db"


def test_a_secret_that_others_may_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning with the remedy, without the secret; none where only the owner's group reads."""
    file = tmp_path / "u.toml"
    file.write_text("[edge]\napi_key = 'uf_live_S'\n[server]\ndatabase = 'postgresql://u:S@h/d'")
    file.chmod(0o640)
    read(file)
    assert caplog.messages == []
    file.chmod(0o644)
    with caplog.at_level(logging.WARNING):
        read(file)
    (told,) = caplog.messages
    assert told == (
        f"{file} holds api_key and database, and every user of this machine may read it: "
        f"chmod o= {file}"
    )


def test_a_file_without_secrets_may_be_read_by_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database file's path is none."""
    file = tmp_path / "u.toml"
    file.write_text("[server]\nport = 1\ndatabase = 'sqlite:///x.db'")
    file.chmod(0o644)
    assert read(file)["port"].value == 1
    assert caplog.messages == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, a directory, or not text."""
    (tmp_path / "latin").write_bytes(b"# \xff")
    for name, reason in (
        ("nowhere", "No such file or directory"),
        ("", "Is a directory"),
        ("latin", "it is not UTF-8"),
    ):
        with pytest.raises(ConfigurationError, match=f"cannot read .*{name}: {reason}"):
            read(tmp_path / name)
