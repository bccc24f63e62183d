"""Settings: where a value comes from, and every value that is refused."""

import base64
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import pytest

from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError

HINTS = get_type_hints(Settings)
NAMES = [item.name for item in fields(Settings)]
NUMBERS = [name for name in NAMES if HINTS[name] in (int, float)]
CHOICES = {
    name: [choice for choice in get_args(HINTS[name]) if isinstance(choice, str)] for name in NAMES
}
FORMS = {
    "stripe_api_key": "sk_test_other",
    "hop_key": "text" * 4,
    "stripe_client_id": "ca_other",
    "stripe_api_base": "http://127.0.0.1:1",
    "public_url": "https://usage.example.com",
    "encryption_keys": base64.b64encode(b"k" * 32).decode(),
}
"""Of settings that take no other text: one that they take."""
KEY = {"USAGEFLOW_API_KEY": "uf_live_0"}
"""What lets `server` be set as well."""
CERTIFICATES = {"USAGEFLOW_TLS_CERT": "c.pem", "USAGEFLOW_UPSTREAM_CLIENT_CERT": "c.pem"}
"""What lets their keys be set as well."""


def example(name: str) -> tuple[str, Any]:
    """A text of the environment for this field that is not its default, and what it means."""
    if name in FORMS:
        return FORMS[name], FORMS[name]
    if int in (HINTS[name], *get_args(HINTS[name])):
        return "777", 777
    if float in (HINTS[name], *get_args(HINTS[name])):
        return "7.5", 7.5
    text = next((choice for choice in CHOICES[name] if choice != getattr(Settings(), name)), "text")
    return text, text


def test_the_defaults_are_the_settings_of_an_empty_environment() -> None:
    """Nothing has to be set."""
    assert Settings.read({}) == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_each_field_has_its_variable(name: str) -> None:
    """`USAGEFLOW_` and the name in capitals, read as what the field is."""
    text, value = example(name)
    environ = KEY | CERTIFICATES | {f"USAGEFLOW_{name.upper()}": text}
    read = getattr(Settings.read(environ), name)
    assert (read, type(read)) == (value, type(value))
    assert value != getattr(Settings(), name)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    """`USAGEFLOW_PORT=` in a shell or a compose file leaves the default."""
    assert Settings.read({variable(name): ""}) == Settings()


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping the process's own variables are read."""
    monkeypatch.setenv("USAGEFLOW_SPOOL_DIR", "/var/lib/usageflow")
    assert Settings.read().spool_path == Path("/var/lib/usageflow")


def test_what_is_given_wins_over_the_environment() -> None:
    """An argument, then the variable, then the default; None is no argument."""
    environ = {"USAGEFLOW_PORT": "1", "USAGEFLOW_HOST": "::1"}
    settings = Settings.read(environ, port=2, host=None)
    assert (settings.port, settings.host) == (2, "::1")


def test_a_file_stands_between_environment_and_default() -> None:
    """Values of a file are taken as they are, where nothing else says otherwise."""
    file = {"port": 3, "host": "::3", "workers": 3}
    settings = Settings.read({"USAGEFLOW_HOST": "::2"}, file=file, port=1)
    assert (settings.port, settings.host, settings.workers) == (1, "::2", 3)


def test_a_path_may_be_given() -> None:
    """The middleware takes paths; settings are text."""
    settings = Settings.read({}, policies=Path("a") / "p.toml", spool_dir=Path("spool"))
    assert (settings.policies, settings.spool_dir) == ("a/p.toml", "spool")


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_must_be_one(name: str) -> None:
    """The message names the variable, what it takes and what it was."""
    kind = "a whole number" if HINTS[name] is int else "a number"
    with pytest.raises(ConfigurationError) as refused:
        Settings.read({variable(name): "many"})
    assert str(refused.value) == f"{variable(name)} must be {kind}, not 'many'"
    assert refused.value.__suppress_context__


@pytest.mark.parametrize("name", [name for name in NUMBERS if HINTS[name] is int])
def test_a_whole_number_has_no_fraction(name: str) -> None:
    """Half a port is a mistake, not port 0."""
    with pytest.raises(ConfigurationError, match=r"a whole number, not '0\.5'"):
        Settings.read({variable(name): "0.5"})


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_must_be_finite(value: str) -> None:
    """Infinity and not-a-number pass every comparison that could stop them later."""
    with pytest.raises(ConfigurationError, match=f"must be a number above 0, not {value}"):
        Settings.read({"USAGEFLOW_STRIPE_RESEND_S_MAX": value})


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_must_be_above_0(name: str, value: int) -> None:
    """A limit of 0 would stop everything; it never means "no limit"."""
    message = f"{variable(name)} must be a number above 0, not {value}"
    with pytest.raises(ConfigurationError, match=message):
        Settings.read({variable(name): str(value)})


@pytest.mark.parametrize(
    "key", ["garbage", "pk_live_1", " sk_test_1", "'sk_test_1'", "sk_test_1\n"]
)
def test_a_stripe_key_is_secret_or_restricted(key: str) -> None:
    """Anything else could send nothing; the key is not in the message."""
    with pytest.raises(ConfigurationError, match="must be a secret or restricted key") as caught:
        Settings(stripe_api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://usage.example.com", "http://127.0.0.1:8787", "http://[::1]:8787/", "https://a-b.c/"],
)
def test_a_public_url_is_an_origin(url: str) -> None:
    """A scheme, a host, perhaps a port."""
    assert Settings(public_url=url).public_url == url


@pytest.mark.parametrize(
    "url",
    [
        *("usage.example.com", "//usage.example.com", "ftp://h", "https://", "https://h/app"),
        *("https://h?x=1", "https://h#x", "https://u:pass_S@h", "https://h:0", "https://h:655360"),
        *("https://h:x", "https://h ", "https://h\n", "https://h,https://i", "javascript:x"),
    ],
)
def test_a_public_url_has_nothing_else(url: str) -> None:
    """Paths are put behind it; a password is not repeated."""
    with pytest.raises(ConfigurationError, match=r"PUBLIC_URL must be http\(s\)://host") as caught:
        Settings(public_url=url)
    assert "pass_S" not in str(caught.value)


@pytest.mark.parametrize("url", ["api.stripe.com", "localhost:12111", "ftp://h", "http://"])
def test_another_base_url_has_a_scheme(url: str) -> None:
    """Else every call to Stripe would fail, each in a way of its own."""
    with pytest.raises(ConfigurationError, match="API_BASE must be a URL that begins with http"):
        Settings(stripe_api_base=url)
    assert Settings(stripe_api_base="http://127.0.0.1:12111").stripe_api_base is not None


def test_an_encryption_key_has_256_bits() -> None:
    """In either alphabet of base64; a wrong one is named by its position and not shown."""
    right = [
        base64.b64encode(b"\xff" * 32).decode(),
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
    ]
    assert Settings(encryption_keys=", ".join(right)).encryption_keys is not None
    for wrong in ("c2hvcnQ=", right[0][:-1], right[0] + "A", "ä" * 44, "not base64 at all"):
        with pytest.raises(ConfigurationError, match=r"ENCRYPTION_KEYS .* key 2 of them") as caught:
            Settings(encryption_keys=f"{right[0]},{wrong}")
        assert wrong not in str(caught.value)
        assert right[0] not in str(caught.value)


def test_a_hop_key_cannot_be_guessed() -> None:
    """Who knows it can claim to have been billed; the message says how to make one, and not it."""
    with pytest.raises(ConfigurationError, match=r"HOP_KEY must .* 16 .*openssl rand") as caught:
        Settings(hop_key="guess-me-please")
    assert "guess" not in str(caught.value)
    assert Settings(hop_key="guess-me-please!").hop_key is not None


def test_a_batch_may_hold_at_least_a_row_of_a_spool() -> None:
    """Else an edge could never hand its events in."""
    with pytest.raises(ConfigurationError, match="INGEST_EVENTS_MAX must be at least 500"):
        Settings(ingest_events_max=499)


@pytest.mark.parametrize("name", [name for name in NAMES if CHOICES[name]])
def test_a_choice_is_one_of_its_words(name: str) -> None:
    """From the environment and from an argument alike; the message lists the words."""
    message = f"{variable(name)} must be one of {', '.join(CHOICES[name])}, not 'maybe'"
    ways: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({variable(name): "maybe"}, {}),
        ({}, {name: "maybe"}),
    ]
    for environ, given in ways:
        with pytest.raises(ConfigurationError) as refused:
            Settings.read(environ, **given)
        assert str(refused.value) == message


def test_identifiers_are_not_resent_after_stripe_forgot_them() -> None:
    """The limit is Stripe's 24 hours, exclusive."""
    assert Settings(stripe_resend_s_max=86_399).stripe_resend_s_max == 86_399
    with pytest.raises(ConfigurationError, match=r"RESEND_S_MAX .* below 86400"):
        Settings(stripe_resend_s_max=86_400)


def test_a_server_needs_a_key() -> None:
    """The message says how to make one."""
    with pytest.raises(ConfigurationError, match=r"usageflow keys create .* usage\.write"):
        Settings.read({"USAGEFLOW_SERVER": "http://127.0.0.1:8787"})
    assert Settings.read(KEY, server="http://127.0.0.1:8787").server == "http://127.0.0.1:8787"


@pytest.mark.parametrize("key", ["tls_key", "upstream_client_key"])
def test_a_key_needs_its_certificate(key: str) -> None:
    """Alone it would be ignored, and what should be TLS would not be."""
    certificate = variable(key.replace("key", "cert"))
    with pytest.raises(ConfigurationError, match=f"^{variable(key)} is set without {certificate}:"):
        Settings.read({variable(key): "k.pem"})


def test_all_mistakes_are_told_at_once() -> None:
    """One line for each, in the order of the fields."""
    with pytest.raises(ConfigurationError) as raised:
        Settings(server="http://s", workers=1_025, tls_key="k", upstream_balance=cast("Any", "x"))
    workers, balance, key, server = str(raised.value).splitlines()
    assert workers == (
        "USAGEFLOW_WORKERS must be at most 1024, not 1025: one for each core is enough"
    )
    assert balance.startswith("USAGEFLOW_UPSTREAM_BALANCE must be one of ")
    assert key.startswith("USAGEFLOW_TLS_KEY is set without ")
    assert server.startswith("a server is set but no API key: ")


def test_a_copy_is_checked_as_well() -> None:
    """`with_changes` leaves the original alone and refuses what construction refuses."""
    before = Settings()
    assert before.with_changes(port=1).port == 1
    assert before.port == 8787
    with pytest.raises(ConfigurationError, match="USAGEFLOW_PORT"):
        before.with_changes(port=0)


def test_settings_are_frozen() -> None:
    """What was read at start stays."""
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_secrets_are_not_shown() -> None:
    """A log of the settings holds no key and no database password."""
    secret: dict[str, Any] = {
        "api_key": "uf_live_S",
        "stripe_api_key": "sk_test_S",
        "database": "postgresql://u:S@h/d",
        "hop_key": "hop_S" * 4,
        "stripe_webhook_secrets": "whsec_S",
        "encryption_keys": "sealedS_" * 5 + "SS0=",
        "forward_to": "https://user:pass_S@host/",
    }
    shown = repr(Settings(**secret))
    assert "uf_live_S" not in shown
    assert "sk_test_S" not in shown
    assert "hop_S" not in shown
    assert "whsec_S" not in shown
    assert "sealedS_" not in shown
    assert "pass_S" not in shown
    assert ":S@" not in shown
    assert {item.name for item in fields(Settings) if item.metadata["secret"]} == secret.keys()
