"""All mistakes of a configuration at once, and what passes for none."""

from pathlib import Path
from typing import Any

import pytest

from usageflow.config import Settings
from usageflow.errors import ConfigurationError
from usageflow.proxy.soundness import mistakes, require_sound


def told(**settings: Any) -> list[tuple[str, str]]:
    """Which settings are wrong, and why."""
    return [(mistake.name, mistake.text) for mistake in mistakes(Settings(**settings))]


def test_what_is_not_set_is_not_missed() -> None:
    """A file may be for the server alone."""
    assert told() == []


def test_all_that_is_wrong_is_told(tmp_path: Path) -> None:
    """In the order of the settings, each by the message of the part that reads it."""
    found = told(
        policies=f"{tmp_path}/none.toml",
        path_rules="final-slsh",
        listen="8080",
        tls_cert=f"{tmp_path}/none.pem",
        admin_listen="unix:/run/admin.sock",
        trusted_proxies="everybody",
        access_log=f"{tmp_path}/none/access.log",
        upstream="http://api/v1",
        health_path="health",
    )
    assert [name for name, _ in found] == [
        *("policies", "path_rules", "listen", "tls_cert", "admin_listen", "trusted_proxies"),
        *("access_log", "upstream", "health_path"),
    ]
    texts = dict(found)
    assert texts["policies"].endswith("none.toml: cannot be read: No such file or directory")
    assert 'did you mean "final-slash"?' in texts["path_rules"]
    assert texts["listen"].startswith("listen address '8080' must look like ")
    assert texts["admin_listen"].startswith("--admin-listen: listen address 'unix:")
    assert texts["access_log"].endswith(f"access.log: {tmp_path}/none is no directory")
    assert texts["health_path"].startswith("USAGEFLOW_HEALTH_PATH must be a path ")


def test_sound_settings(tmp_path: Path) -> None:
    """Nothing is written, and nothing bound, while they are looked at."""
    (tmp_path / "p.toml").write_text("# nothing is metered")
    settings = Settings(
        policies=f"{tmp_path}/p.toml",
        path_rules="case",
        listen="127.0.0.1:8080",
        admin_listen="127.0.0.1:9901",
        trusted_proxies="10.0.0.0/8",
        access_log=f"{tmp_path}/access.log",
        upstream="http://127.0.0.1:9000,unix:/run/api.sock",
        health_path="/health",
    )
    require_sound(settings)
    require_sound(settings.with_changes(access_log="-"))
    assert [path.name for path in tmp_path.iterdir()] == ["p.toml"]


def test_a_proxy_needs_an_upstream_and_all_else_is_told_with_it() -> None:
    """One line for each mistake."""
    with pytest.raises(ConfigurationError) as raised:
        require_sound(Settings(listen="8080", health_path="x"))
    assert [line.partition(" ")[0] for line in str(raised.value).splitlines()] == [
        *("listen", "USAGEFLOW_HEALTH_PATH", "no")
    ]


@pytest.mark.parametrize("content", [b"", b"[[policy", b"\xff\xfe"])
def test_a_policy_file_that_is_none(content: bytes, tmp_path: Path) -> None:
    """Empty, not TOML, not text."""
    file = tmp_path / "p.toml"
    file.write_bytes(content)
    ((name, text),) = told(policies=str(file))
    assert name == "policies"
    assert text.startswith(f"{file}:")


def test_a_single_wrong_policy_stops_nothing(tmp_path: Path) -> None:
    """The others meter."""
    file = tmp_path / "p.toml"
    file.write_text("[[policy]]\nname = 'x'\n")
    assert told(policies=str(file)) == []


def test_the_access_log_must_be_a_file(tmp_path: Path) -> None:
    """Not a directory, and one that may be written."""
    ((_, text),) = told(access_log=str(tmp_path))
    assert text.endswith(": it is a directory")
    ((_, text),) = told(access_log="/proc/version/access.log")
    assert text.endswith("/proc/version is no directory")
    ((_, text),) = told(access_log="/proc/self/access.log")
    assert text.endswith(": no permission")


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:8080", "http://localhost:8080"),
        ("127.0.0.1:8080", "http://api:1,http://0.0.0.0:8080"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("localhost:80", "http://localhost"),
        ("api.example:80", "http://api.example"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_a_loop(listen: str, upstream: str) -> None:
    """An upstream that is the proxy itself: one request would go round until nothing is left."""
    ((name, text),) = told(listen=listen, upstream=upstream)
    assert name == "upstream"
    assert f"is where the proxy itself listens ({listen}): " in text


@pytest.mark.parametrize(
    ("listen", "upstream"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8081"),
        ("127.0.0.1:8080", "http://127.0.0.2:8080"),
        ("0.0.0.0:8080", "http://10.0.0.5:8080"),
        ("0.0.0.0:8080", "http://api:8080"),
        ("127.0.0.1:8080", "unix:/run/a.sock"),
        ("unix:/run/a.sock", "http://127.0.0.1:8080"),
        ("unix:/run/a.sock", "unix:/run/b.sock"),
    ],
)
def test_no_loop(listen: str, upstream: str) -> None:
    """The same port elsewhere, or another one here."""
    assert told(listen=listen, upstream=upstream) == []


@pytest.mark.parametrize(
    ("listen", "admin", "same"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", True),
        ("0.0.0.0:8080", "127.0.0.1:8080", True),
        ("127.0.0.1:8080", "0.0.0.0:8080", True),
        ("127.0.0.1:8080", "127.0.0.2:8080", False),
        ("127.0.0.1:8080", "127.0.0.1:8081", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/run/a.sock", "127.0.0.1:8080", False),
    ],
)
def test_the_admin_port_is_another(listen: str, admin: str, same: bool) -> None:  # noqa: FBT001
    """Both would be bound, and only one could listen."""
    found = told(listen=listen, admin_listen=admin)
    assert [name for name, _ in found] == ["admin_listen"] * same
    assert all("give --admin-listen a port of its own" in text for _, text in found)


def test_one_mistake_is_told_once() -> None:
    """What is compared with a wrong address is not wrong for that."""
    found = told(listen="x", admin_listen="127.0.0.1:1", upstream="http://127.0.0.1:1")
    assert [name for name, _ in found] == ["listen"]
