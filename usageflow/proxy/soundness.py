"""What a proxy could not run with, found before anything is started, and all of it at once.

Every part of the proxy reads its own settings and stops at its first mistake; here each is asked.
Files that settings name are read; no socket is opened, no name resolved and nothing written.
"""

import os
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from usageflow.config import Settings, variable
from usageflow.errors import ConfigurationError, PolicyFileError
from usageflow.policies import parse_file
from usageflow.policies.paths import PathRules
from usageflow.proxy.admin import admin_address
from usageflow.proxy.certificates import Certificates
from usageflow.proxy.forwarded import TrustedPeers
from usageflow.proxy.health import question_path
from usageflow.proxy.listening import Address
from usageflow.proxy.targets import NO_UPSTREAM, Target, parse_targets


class Mistake(NamedTuple):
    """What is wrong with the setting of this name, and with others in so far as they concern it."""

    name: str
    text: str


def mistakes(settings: Settings) -> list[Mistake]:
    """What is wrong for a proxy with what is set, in the order of the settings."""
    found = []
    for name, check in _CHECKS.items():
        if getattr(settings, name) is not None:
            try:
                check(settings)
            except ConfigurationError as error:
                found.append(Mistake(name, str(error)))
    return found


def require_sound(settings: Settings) -> None:
    """Raises ConfigurationError with all that is wrong or missing, if a proxy cannot run so."""
    problems = [mistake.text for mistake in mistakes(settings)]
    if settings.upstream is None:
        problems.append(NO_UPSTREAM)
    if problems:
        raise ConfigurationError("\n".join(problems))


def _policies(settings: Settings) -> None:
    """A single policy that is wrong stops no proxy; `usageflow policies check` tells it."""
    file = str(settings.policies)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PolicyFileError(file, [f"{file}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise PolicyFileError(file, [f"{file}: cannot be read: it is not UTF-8"]) from None
    parse_file(text, file)


def _path_rules(settings: Settings) -> None:
    try:
        PathRules.parse(settings.path_rules)
    except ValueError as error:
        raise ConfigurationError(f"{variable('path_rules')}: {error}") from None


def _admin(settings: Settings) -> None:
    host, port = admin_address(str(settings.admin_listen))
    try:
        listen = Address.parse(settings.listen)
    except ConfigurationError:
        return  # that one is told
    both = host, listen.host
    if port == listen.port != 0 and (host == listen.host or any(map(_is_every, both))):
        raise ConfigurationError(
            f"--admin-listen {settings.admin_listen} and --listen {settings.listen} are the same: "
            "give --admin-listen a port of its own"
        )


def _access_log(settings: Settings) -> None:
    if settings.access_log in ("off", "-"):
        return
    path = Path(settings.access_log)
    trouble = None
    if not path.parent.is_dir():
        trouble = f"{path.parent} is no directory"
    elif path.is_dir():
        trouble = "it is a directory"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        trouble = "no permission"
    if trouble is not None:
        raise ConfigurationError(f"cannot open the access log {path}: {trouble}")


def _upstream(settings: Settings) -> None:
    targets = parse_targets(settings)
    try:
        listen = Address.parse(settings.listen)
    except ConfigurationError:
        return  # that one is told
    for target in targets:
        if _leads_back(target, listen):
            raise ConfigurationError(
                f"upstream {target.name!r} is where the proxy itself listens ({settings.listen}): "
                "each request would come back to it"
            )


def _leads_back(target: Target, listen: Address) -> bool:
    """By what is written: names other than localhost are not resolved."""
    if target.path is not None or listen.path is not None:
        return target.path == str(listen.path)
    if target.port != listen.port:
        return False
    to, own = _literal(target.host), _literal(listen.host)
    if to is None or own is None:
        return target.host == listen.host
    return (
        to == own
        or (own.is_unspecified and to.is_loopback)
        or (to.is_unspecified and own.is_loopback)
    )


def _is_every(host: str) -> bool:
    address = _literal(host)
    return address is not None and address.is_unspecified


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None


_CHECKS: Final[Mapping[str, Callable[[Settings], object]]] = MappingProxyType(
    {
        "policies": _policies,
        "path_rules": _path_rules,
        "listen": lambda settings: Address.parse(settings.listen),
        "tls_cert": lambda settings: Certificates(str(settings.tls_cert), settings.tls_key),
        "admin_listen": _admin,
        "trusted_proxies": lambda settings: TrustedPeers.parse(settings.trusted_proxies),
        "access_log": _access_log,
        "upstream": _upstream,
        "health_path": question_path,
    }
)
"""What each setting is checked by, which raises ConfigurationError; asked only if it is set."""
