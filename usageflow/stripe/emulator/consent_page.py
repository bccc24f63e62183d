"""The page where an account's owner consents: plain HTML that reads on a desk and on a phone."""

from collections.abc import Mapping
from html import escape
from typing import Final

from usageflow.stripe.emulator.authorizations import livemode_of

ASKED: Final = ("response_type", "client_id", "scope", "state", "redirect_uri")
"""What the page hands on with the decision."""

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Connect an account: Stripe emulator</title><style>
:root {{ color-scheme: light dark }}
body {{
  font: 16px/1.5 system-ui, sans-serif; max-width: 28rem; margin: auto; padding: 2rem 1rem;
}}
h1 {{ font-size: 1.5rem; margin: 0 0 1rem }}
p {{ overflow-wrap: anywhere }}
small {{ opacity: .7 }}
label {{ display: block; margin: 1.5rem 0 .25rem }}
input {{ font: inherit; width: 100%; box-sizing: border-box; padding: .5rem }}
button {{ font: inherit; padding: .5rem 1.25rem; margin: 1.5rem .5rem 0 0; min-height: 2.75rem }}
</style></head>
<body><h1>Connect an account</h1>
<p><b>{client}</b> asks for {scope} access{mode}.</p>
<p><small>This is the Stripe emulator. Nothing here reaches Stripe.</small></p>
<form method="post" action="/oauth/authorize">
{hidden}
<label for="account">Account</label>
<input id="account" name="account" value="acct_emulated" pattern="acct_\\w+" required
  autocomplete="off" spellcheck="false">
<button name="decision" value="connect">Connect</button>
<button name="decision" value="deny" formnovalidate>Deny</button>
</form></body></html>
"""
_ACCESS: Final = {"read_only": "read-only", "read_write": "full"}


def consent_page(asked: Mapping[str, str]) -> str:
    """The page for an address that was found right."""
    livemode = livemode_of(asked["client_id"])
    return _PAGE.format(
        client=escape(asked["client_id"]),
        scope=_ACCESS[asked.get("scope", "read_only")],
        mode="" if livemode is None else f" in {'live' if livemode else 'test'} mode",
        hidden="\n".join(
            f'<input type="hidden" name="{name}" value="{escape(asked[name])}">'
            for name in ASKED
            if name in asked
        ),
    )
