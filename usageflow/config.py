"""Every setting and every limit, in one frozen object, read from the environment once.

A field's metadata carries its reason; command line flags, `usageflow.toml` and `docs/settings.md`
are derived from the same fields. Below the edge nothing reads the environment: functions get
arguments. This module knows no other room and opens no file.
"""

import base64
import binascii
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args, get_type_hints

from usageflow.errors import ConfigurationError

Durability = Literal["durable", "relaxed"]
UnknownMetric = Literal["create", "inbox"]
Switch = Literal["on", "off"]
Balance = Literal["round-robin", "least-connections"]
StripeApi = Literal["v1", "v2-stream"]
Signup = Literal["first", "open", "invited"]

_FORMS: Final = MappingProxyType(
    {
        # docs.stripe.com/keys; publishable keys (pk_) can send no usage.
        "stripe_api_key": (
            re.compile(r"[rs]k_(test|live)_[A-Za-z0-9_]+"),
            "must be a secret or restricted key, without spaces or quotes: sk_... or rk_...",
        ),
        "stripe_client_id": (
            re.compile(r"ca_[A-Za-z0-9_]+"),
            "must be the client id of a Connect platform: ca_...",
        ),
        "stripe_api_base": (
            re.compile(r"https?://[^\s/?#]+\S*"),
            "must be a URL that begins with http:// or https://",
        ),
        "public_url": (
            re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[1-9][0-9]{0,4})?/?"),
            "must be http(s)://host[:port], without a path, a query or a user",
        ),
    }
)
"""Settings of a form: what they look like, and the words for what does not."""
SPOOL_ROW_EVENTS_MAX: Final = 500
"""Events in one row of a spool; the least a batch to the server may have to hold."""
_ENCRYPTION_KEY_BYTES: Final = 32
"""AES-256."""
_HOP_KEY_CHARS_MIN: Final = 16
"""A shorter one could be guessed, and who knows it is not billed: 64 bits, if they are hex."""
_STRIPE_FORGETS_S: Final = 86_400
"""How long Stripe knows the identifier of a meter event."""
_WORKERS_MAX: Final = 1_024
"""More than any machine has cores; each is a process with a socket of its own."""
_CERTIFICATES: Final = MappingProxyType(
    {"tls_key": "tls_cert", "upstream_client_key": "upstream_client_cert"}
)
"""A key, and what it is nothing without."""
_NO_FILE: Final[Mapping[str, Any]] = MappingProxyType({})


def _setting(default: Any, doc: str, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"doc": doc, "secret": secret}, repr=not secret)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What may be set, with its default. Times are seconds, sizes are bytes.

    The environment variable of a field is `USAGEFLOW_` and the field's name in capitals.
    """

    # The edge: middleware and proxy
    server: str | None = _setting(
        None, "URL of the UsageFlow server; none: events stay in the spool"
    )
    api_key: str | None = _setting(None, "key of this edge, scope usage.write", secret=True)
    policies: str | None = _setting(None, "policy file to use instead of the server's policies")
    spool_dir: str = _setting(".usageflow/spool", "directory of the spool; must survive restarts")
    durability: Durability = _setting(
        "durable",
        "durable: a response ends only after its usage is on disk; relaxed: it may end "
        "before, and a crash may lose the events of the last moments",
    )
    body_bytes_max: int = _setting(
        1_048_576, "largest body kept for measuring; a larger one passes, its usage is unmeasured"
    )
    decoded_bytes_max: int = _setting(
        8_388_608, "most bytes that a compressed body is decoded to for measuring"
    )
    decode_cpu_s_max: float = _setting(
        0.1, "most processor time spent on decoding one body; beyond it its usage is unmeasured"
    )
    stream_event_bytes_max: int = _setting(
        1_048_576, "largest single event of a stream that is measured; a larger one is passed over"
    )
    part_interval_s: float = _setting(
        10.0,
        "how often the usage of an open WebSocket or summed stream is recorded; a crash may lose "
        "this much of it",
    )
    part_messages: int = _setting(
        100, "messages after which the usage of an open WebSocket is recorded, if that is sooner"
    )
    path_rules: str | None = _setting(
        None,
        "what the app ignores in paths, comma-separated: final-slash, double-slash, dot-segments, "
        "case, encoded-slash, newline, werkzeug; none: routes as Starlette and FastAPI do",
    )
    jwks_refresh_s: float = _setting(300.0, "how often the keys of a JWKS URL are fetched again")
    jwks_cooldown_s: float = _setting(
        30.0, "shortest pause between two fetches because of an unknown key id"
    )
    jwks_timeout_s: float = _setting(5.0, "longest wait for the answer of a key server")
    tokens_max: int = _setting(
        10_000, "verified tokens remembered per JWT source; about 3 MB when full"
    )
    discovery: Switch = _setting(
        "on", "count the endpoints that no policy matches and report them to the server"
    )
    discovery_endpoints_max: int = _setting(
        1_000, "unmatched endpoints told apart; what is beyond it is counted together"
    )
    queue_events_max: int = _setting(
        8_192, "events waiting for the disk; beyond it `on_ledger_failure` decides"
    )
    hold_timeout_s: float = _setting(
        2.0, "longest wait of a response for a stalled disk before on_ledger_failure = open lets go"
    )
    ship_batch_events_max: int = _setting(1_000, "events in one request to the server")
    ship_interval_s: float = _setting(0.2, "pause between requests to the server while all is well")
    ship_timeout_s: float = _setting(10.0, "longest wait for the server's answer to one batch")
    ship_backoff_s_max: float = _setting(30.0, "longest pause between tries while the server fails")
    adoption_interval_s: float = _setting(
        5.0, "how often the spools of dead processes are looked for"
    )
    policy_poll_s: float = _setting(
        5.0, "how often the policy file or the server is asked for news"
    )
    policy_wait_s: float = _setting(
        5.0, "longest wait at start for the first policies; afterwards requests pass unmetered"
    )
    drain_timeout_s: float = _setting(10.0, "longest time a stopping edge tries to ship its spool")

    # The proxy, towards its clients
    listen: str = _setting(
        "127.0.0.1:8080", "address the proxy listens on: HOST:PORT or unix:/path/of.sock"
    )
    tls_cert: str | None = _setting(
        None, "PEM file with the certificate chain of the listening side; none: plain HTTP"
    )
    tls_key: str | None = _setting(None, "PEM file with its key; none: it is in tls_cert")
    tls_poll_s: float = _setting(10.0, "how often the certificate files are looked at for news")
    admin_listen: str | None = _setting(
        None, "HOST:PORT for /healthz, /readyz and /metrics; none: not served"
    )
    workers: int = _setting(1, "processes that share the listening address")
    websockets: Switch = _setting("on", "pass WebSocket upgrades on; off: they are answered 501")
    trusted_proxies: str | None = _setting(
        None,
        "addresses and networks, comma-separated, whose X-Forwarded-* and Forwarded are believed",
    )
    access_log: str = _setting("off", "one JSON line for each request: off, - (stdout) or a file")
    server_timing: Switch = _setting("off", "tell the cost of metering in a Server-Timing header")
    client_header_timeout_s: float = _setting(
        10.0, "longest time for the head of a request to arrive: 408, and the connection ends"
    )
    client_body_timeout_s: float = _setting(
        30.0, "longest silence within the body of a request: 408, and the connection ends"
    )
    client_idle_timeout_s: float = _setting(
        75.0, "how long a kept-alive connection may rest between requests"
    )
    client_write_timeout_s: float = _setting(
        60.0, "longest time in which a client takes no byte of its answer; then it is cut off"
    )
    client_linger_s: float = _setting(
        5.0, "how long the rest of an upload is read away after it was answered early"
    )
    request_timeout_s: float | None = _setting(
        None, "longest time for a request and its answer in all: 504, or a broken stream; none: any"
    )
    request_line_bytes_max: int = _setting(8_192, "longest request line: 414 beyond it")
    request_header_bytes_max: int = _setting(32_768, "largest request head: 431 beyond it")
    request_headers_max: int = _setting(128, "most header fields of a request: 431 beyond it")
    request_body_bytes_max: int | None = _setting(
        None, "largest request body: 413 beyond it; none: any, since nothing is stored"
    )
    connections_max: int = _setting(
        16_384, "open client connections of one worker: 503 and closed beyond it"
    )
    connections_per_client_max: int = _setting(
        4_096, "open connections of one client address, trusted proxies excepted: 503 beyond it"
    )

    # The proxy, towards the API
    upstream: str | None = _setting(
        None,
        "the API behind the proxy: http://host:port, https://host or unix:/path/of.sock; several, "
        "comma-separated, share the load",
    )
    upstream_balance: Balance = _setting(
        "round-robin", "which of several upstreams is next; least-connections suits long requests"
    )
    upstream_host: str = _setting(
        "keep", "the Host header sent on: keep (the client's), upstream (its own), or a name"
    )
    upstream_ca: str | None = _setting(
        None, "PEM file of the authorities an https upstream is verified by; none: the system's"
    )
    upstream_sni: str | None = _setting(
        None, "name that an https upstream is asked for and verified by; none: that of its URL"
    )
    upstream_client_cert: str | None = _setting(
        None, "PEM file with the certificate shown to an https upstream"
    )
    upstream_client_key: str | None = _setting(
        None, "PEM file with its key; none: it is in upstream_client_cert"
    )
    upstream_connect_timeout_s: float = _setting(
        5.0, "longest wait for a connection: 502 afterwards"
    )
    upstream_read_timeout_s: float = _setting(
        120.0, "longest silence of the upstream while an answer is due: 504, or a broken stream"
    )
    upstream_connections_max: int = _setting(512, "open connections to one upstream; then wait")
    upstream_pool_timeout_s: float = _setting(10.0, "longest wait for a free connection: 504")
    upstream_keepalive_s: float = _setting(
        15.0,
        "idle time after which a connection is closed; below "
        "the usual 60 s or more of servers, above the pauses of live traffic",
    )
    upstream_header_bytes_max: int = _setting(65_536, "largest response head; 502 beyond it")
    upstream_failures_max: int = _setting(
        3, "connections in a row that fail before an upstream is left out, if there are others"
    )
    upstream_failed_s: float = _setting(10.0, "how long it is then left out before it is tried")
    dns_refresh_s: float = _setting(30.0, "how often the name of an upstream is resolved again")
    health_path: str | None = _setting(
        None, "path that is asked for to see whether an upstream is well; none: it is not asked"
    )
    health_interval_s: float = _setting(5.0, "pause between two such questions")
    health_timeout_s: float = _setting(2.0, "longest wait for the answer")
    health_falls: int = _setting(3, "bad answers in a row after which an upstream is left out")
    health_rises: int = _setting(2, "good answers in a row after which it is back")

    # Two hops
    hop_key: str | None = _setting(
        None,
        "secret shared by edges that may stand behind one another, so that a request is metered "
        "once; none: derived from api_key",
        secret=True,
    )

    # The server
    database: str = _setting(
        "sqlite:///usageflow.db", "sqlite:///FILE or postgresql://...", secret=True
    )
    host: str = _setting("127.0.0.1", "address the server listens on")
    port: int = _setting(8787, "port the server listens on")
    unknown_metric: UnknownMetric = _setting(
        "create", "an event names a metric that does not exist: create it, or keep it in the inbox"
    )
    ingest_bytes_max: int = _setting(8_388_608, "largest batch body, after gzip is undone")
    ingest_events_max: int = _setting(5_000, "events in one batch")
    signup: Signup = _setting(
        "first",
        "who may sign up over the API: first (while nobody has), open (anybody, each with an "
        "organization of their own) or invited (only who was invited)",
    )
    api_body_bytes_max: int = _setting(
        1_048_576, "largest body of a request to the API, batches of usage excepted"
    )
    api_requests_per_min: int = _setting(
        6_000, "requests to the API in a minute by one key or one person, tracking excepted"
    )
    webhooks_private: Switch = _setting(
        "off", "let webhooks go to private and loopback addresses, which nobody else should reach"
    )

    # Stripe
    stripe_api_key: str | None = _setting(
        None, "secret or restricted key; none: no forwarding", secret=True
    )
    stripe_api_base: str | None = _setting(None, "another base URL, such as the emulator's")
    stripe_timeout_s: float = _setting(20.0, "longest wait for one answer of Stripe")
    stripe_api: StripeApi = _setting(
        "v1",
        "how usage is sent: v1 (one call for each meter event, refusals told at once) or v2-stream "
        "(100 in a call, refusals told later; for more than 1,000 a second)",
    )
    stripe_calls_per_s: float | None = _setting(
        None,
        "most calls that send usage in a second; none: by account, 900 with an own live key, 80 "
        "through Connect, 20 in a sandbox, each below what Stripe permits",
    )
    stripe_concurrency: int = _setting(
        32, "calls in flight in all, which is how many a second at 1 s each; per lane always one"
    )
    stripe_resend_s_max: float = _setting(
        72_000.0,
        "how long after the first attempt the same identifier may be sent again; Stripe "
        "forgets identifiers after 24 h, so 20 h leaves room for clocks",
    )
    stripe_refresh_s: float = _setting(
        1_800.0, "how often meters are listed again; each time is one of the reads Stripe allots"
    )
    stripe_barrier_s: float = _setting(
        600.0,
        "how long after a billing period its usage may still be on its way before an alarm; "
        "Stripe finalizes the invoice an hour after the period by default",
    )
    stripe_reconcile_s: float = _setting(
        3_600.0, "how often ledger and Stripe are compared, for hours closed for two hours"
    )
    stripe_reads_per_day: int = _setting(
        330,
        "reads of Stripe that comparing may take in a day; Stripe allots 500 for each transaction "
        "in 30 days, and 10,000 at least",
    )
    stripe_poll_s: float = _setting(
        3_600.0, "how often Stripe is asked for events that its webhooks may not have brought"
    )
    stripe_webhook_secrets: str | None = _setting(
        None,
        "signing secrets (whsec_...) of webhook endpoints made by hand, comma-separated",
        secret=True,
    )
    stripe_client_id: str | None = _setting(
        None, "ca_... of the Connect platform; with it organizations connect their own accounts"
    )
    public_url: str | None = _setting(
        None, "URL people and Stripe reach this server by; none: its host and port"
    )
    encryption_keys: str | None = _setting(
        None,
        "keys that seal stored secrets, each 32 bytes in base64, comma-separated: the first seals, "
        "all open; make one with `openssl rand -base64 32`",
        secret=True,
    )
    forward_to: str | None = _setting(
        None,
        "send usage as CloudEvents to file:PATH or to an http(s) URL, instead of to Stripe",
        secret=True,
    )

    def __post_init__(self) -> None:
        """Refuse values that cannot work, and those that cannot without another."""
        problems = [
            f"{variable(item.name)} {problem}"
            for item in fields(self)
            if (problem := problem_of(item.name, getattr(self, item.name))) is not None
        ]
        problems += [
            f"{variable(key)} is set without {variable(certificate)}: a key is of use with its "
            "certificate alone"
            for key, certificate in _CERTIFICATES.items()
            if getattr(self, key) is not None and getattr(self, certificate) is None
        ]
        if self.server is not None and self.api_key is None:
            problems.append(
                "a server is set but no API key: pass api_key= or set USAGEFLOW_API_KEY "
                "(make one with `usageflow keys create --name edge --scope usage.write`)"
            )
        if problems:
            raise ConfigurationError("\n".join(problems))

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        file: Mapping[str, Any] = _NO_FILE,
        **given: Any,
    ) -> Self:
        """What is `given`, then `environ` (default: the process's), then `file`, then the defaults.

        `file` has values by field, as they are. A given None counts as not given.

        Raises ConfigurationError naming the variable and the accepted values.
        """
        source = os.environ if environ is None else environ
        values = dict(file)
        for item in fields(cls):
            if text := source.get(variable(item.name), ""):
                values[item.name] = _parsed(item.name, text)
        for name, value in given.items():
            if value is not None:
                values[name] = str(value) if isinstance(value, Path) else value
        return cls(**values)

    def with_changes(self, **changes: Any) -> Self:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    @property
    def spool_path(self) -> Path:
        """The spool directory as a path."""
        return Path(self.spool_dir)


def variable(name: str) -> str:
    """The environment variable of a field."""
    return f"USAGEFLOW_{name.upper()}"


@cache
def kind_of(name: str) -> type | tuple[str, ...]:
    """What a field takes: int, float or str; or the words of which it is one."""
    hint = get_type_hints(Settings)[name]
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    numbers = [kind for kind in (int, float) if kind in (hint, *get_args(hint))]
    return tuple(choices) or next(iter(numbers), str)


def problem_of(name: str, value: Any) -> str | None:
    """What a field must be instead of this value ("must be ..."), None if it can be that."""
    kind = kind_of(name)
    if isinstance(kind, tuple) and value not in kind:
        return f"must be one of {', '.join(kind)}, not {value!r}"
    if isinstance(value, int | float) and not 0 < value < math.inf:
        return f"must be a number above 0, not {value}"
    if name == "stripe_resend_s_max" and value >= _STRIPE_FORGETS_S:
        return (
            f"must stay below {_STRIPE_FORGETS_S}: after 24 h Stripe counts the same identifier "
            f"again"
        )
    if name == "workers" and value > _WORKERS_MAX:
        return f"must be at most {_WORKERS_MAX}, not {value}: one for each core is enough"
    if name == "ingest_events_max" and value < SPOOL_ROW_EVENTS_MAX:
        return f"must be at least {SPOOL_ROW_EVENTS_MAX}: edges send whole rows of their spool"
    if name == "hop_key" and value is not None and len(value) < _HOP_KEY_CHARS_MIN:
        return (
            f"must have at least {_HOP_KEY_CHARS_MIN} characters: make one with "
            f"`openssl rand -hex 32`"
        )
    if name == "encryption_keys" and value is not None:
        return _encryption_keys_problem(value)
    if name in _FORMS and value is not None:
        form, wanted = _FORMS[name]
        return None if form.fullmatch(value) else wanted
    return None


def _encryption_keys_problem(text: str) -> str | None:
    """Names a wrong key by its position alone."""
    keys = [part.strip() for part in text.split(",") if part.strip()]
    for number, key in enumerate(keys, start=1):
        try:
            decoded = base64.b64decode(key.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            decoded = b""
        if len(decoded) != _ENCRYPTION_KEY_BYTES:
            return (
                f"must be keys of {_ENCRYPTION_KEY_BYTES} bytes in base64, and key {number} of "
                "them is none; make one with `openssl rand -base64 32`"
            )
    return None


def _parsed(name: str, text: str) -> Any:
    kind = kind_of(name)
    if not isinstance(kind, type):
        return text
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ConfigurationError(f"{variable(name)} must be {wanted}, not {text!r}") from None
