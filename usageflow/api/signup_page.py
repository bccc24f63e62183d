"""The pages of sign-up and invitations as HTML. Pure: values in, text out, everything escaped.

They work without JavaScript and load nothing. What is valid is decided in `signup` and `invite`.
"""

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Final

from usageflow.catalog.invitations import Offer
from usageflow.catalog.passwords import PASSWORD_CHARS_MIN

STYLE: Final = """
:root { color-scheme: light dark;
  --ink: #16202c; --dim: #56637a; --line: #d3dae4; --edge: #7b889d; --page: #f3f5f8; --card: #fff;
  --accent: #1d4ed8; --on-accent: #fff; --bad: #b42318; --code: #eef1f6; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e8edf4; --dim: #9fadc2; --line: #3b475a; --edge: #74839c;
  --page: #0f141b; --card: #18202b;
  --accent: #8fb3ff; --on-accent: #0b1730; --bad: #ff9c8f; --code: #10161e; } }
* { box-sizing: border-box; }
body { margin: 0; padding: clamp(1rem, 6vh, 5rem) 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 28rem; margin: 0 auto; padding: clamp(1.25rem, 5vw, 2.25rem);
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
main.wide { max-width: 44rem; }
.brand { margin: 0 auto 1.25rem; max-width: 28rem; font-weight: 650; letter-spacing: -.01em; }
.brand.wide { max-width: 44rem; }
h1 { margin: 0 0 .5rem; font-size: 1.375rem; line-height: 1.25; letter-spacing: -.015em;
  text-wrap: balance; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .375rem; font-size: 1rem; }
p { margin: 0 0 .75rem; } .dim { color: var(--dim); }
label { display: block; margin-top: 1.25rem; font-weight: 550; }
input { width: 100%; margin-top: .375rem; padding: .625rem .75rem; font: inherit; color: inherit;
  background: var(--card); border: 1px solid var(--edge); border-radius: .5rem; }
input[aria-invalid] { border-color: var(--bad); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px; }
.hint, .error { margin: .375rem 0 0; font-size: .875rem; }
.hint { color: var(--dim); } .error { color: var(--bad); font-weight: 550; }
button { width: 100%; margin-top: 1.75rem; padding: .75rem; font: inherit; font-weight: 600;
  color: var(--on-accent); background: var(--accent); border: 0; border-radius: .5rem;
  cursor: pointer; }
button:hover { filter: brightness(1.1); }
pre { margin: .5rem 0 1rem; padding: .75rem 1rem; background: var(--code);
  border: 1px solid var(--line); border-radius: .5rem; font: .875rem/1.6 ui-monospace, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
pre.key { user-select: all; }
code { font-family: ui-monospace, monospace; font-size: .9em; }
"""
STYLE_SOURCE: Final = (
    "'sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode() + "'"
)
"""What a content security policy calls this style by, so that no other is applied."""

_FIELDS: Final = (
    ("organization", "Organization", "text", "organization", 'maxlength="100"', ""),
    ("email", "E-mail address", "email", "email", 'maxlength="254"', ""),
    (
        "password",
        "Password",
        "password",
        "new-password",
        f'minlength="{PASSWORD_CHARS_MIN}" maxlength="1024"',
        f"At least {PASSWORD_CHARS_MIN} characters. A few words are fine.",
    ),
)
"""Name, label, type, what a browser may fill in, bounds, hint."""
_OWN_PASSWORD: Final = (
    *("password", "Password", "password", "current-password", 'maxlength="1024"'),
    "Of the account that you have already.",
)


def form_page(token: str, values: Mapping[str, str], problems: Mapping[str, str]) -> str:
    """The form; what was typed is kept, but never the password. A problem stands at its field."""
    first = next((name for name, *_ in _FIELDS if name in problems), "organization")
    title = "Create the owner's account"
    fields = "".join(_field(row, values, problems, focus=row[0] == first) for row in _FIELDS)
    return _page(
        f"Check the form: {title}" if problems else title,
        f"""<h1>Create the owner&rsquo;s account</h1>
<p class="dim">This installation has no account yet. The first one owns it.</p>
<form method="post" action="/signup">
<input type="hidden" name="token" value="{escape(token)}">
{fields}<button type="submit">Create account</button>
</form>""",
    )


def invite_page(token: str, offer: Offer, problems: Mapping[str, str]) -> str:
    """The form to come in by an invitation: the password one has, or one to choose."""
    row = _OWN_PASSWORD if offer.has_account else _FIELDS[-1]
    title = f"Join {offer.organization}"
    return _page(
        f"Check the form: {title}" if problems else title,
        f"""<h1>{escape(title)}</h1>
<p class="dim">You are invited as {escape(offer.email)}, in the role {escape(offer.role)}.</p>
<form method="post" action="/invite">
<input type="hidden" name="token" value="{escape(token)}">
{_field(row, {}, problems, focus=True)}<button type="submit">Join</button>
</form>""",
    )


def done_page(organization: str, api_key: str, server: str) -> str:
    """After it worked: the key for an edge, this once, and what to do with it."""
    return _page(
        "Account created",
        f"""<h1>{escape(organization)} is set up</h1>
<p class="dim">Your account owns this installation, and nobody else can create one. There are no
pages to log in to: the <code>usageflow</code> commands, where the server runs, show the usage, and
make keys and policies.</p>
<h2>Keep this API key</h2>
<p>An edge, the proxy or the middleware in your app, hands in its usage with it.
<strong>It is shown only now;</strong> <code>usageflow keys create</code> makes others.</p>
<pre class="key">{escape(api_key)}</pre>
<h2>If you started <code>usageflow up</code></h2>
<p>All of it runs: the proxy is in front of your API with a key of its own, and the file of
<code>--policies</code> is in use. Send a request through the proxy, and
<code>usageflow usage</code> shows it.</p>
<h2>For any other edge</h2>
<p>Say what to meter, unless <code>--policies</code> did: publish a policy file where the server
runs. Edges follow by themselves.</p>
<pre>usageflow policies push policies.toml</pre>
<p>Put a proxy in front of your API, on a port that is free:</p>
<pre>export USAGEFLOW_API_KEY=uf_live_...
usageflow proxy --upstream http://127.0.0.1:9000 \\
  --listen 127.0.0.1:8081 --server {escape(server)}</pre>""",
        wide=True,
    )


def message_page(title: str, *sentences: str, button: str | None = None) -> str:
    """A page that only says something; its button posts to the address of the page."""
    paragraphs = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in sentences)
    form = (
        ""
        if button is None
        else f'<form method="post"><button type="submit">{escape(button)}</button></form>\n'
    )
    return _page(title, f"<h1>{escape(title)}</h1>\n{paragraphs}{form}")


def _field(
    row: tuple[str, str, str, str, str, str],
    values: Mapping[str, str],
    problems: Mapping[str, str],
    *,
    focus: bool,
) -> str:
    name, label, kind, fills, bounds, hint = row
    problem = problems.get(name)
    attributes = bounds
    if kind != "password":
        attributes += f' value="{escape(values.get(name, ""))}"'
    if problem or hint:
        attributes += f' aria-describedby="{name}-note"'
    if problem:
        attributes += ' aria-invalid="true"'
    if focus:
        attributes += " autofocus"
    note = (
        f'<p class="{"error" if problem else "hint"}" id="{name}-note">' if problem or hint else ""
    )
    return f"""<label for="{name}">{label}</label>
<input id="{name}" name="{name}" type="{kind}" autocomplete="{fills}" required {attributes}>
{note}{escape(problem or hint)}{"</p>" if note else ""}
"""


def _page(title: str, content: str, *, wide: bool = False) -> str:
    width = ' class="wide"' if wide else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · UsageFlow</title>
<style>{STYLE}</style>
</head>
<body>
<p class="brand{" wide" if wide else ""}">UsageFlow</p>
<main{width}>
{content}
</main>
</body>
</html>
"""
