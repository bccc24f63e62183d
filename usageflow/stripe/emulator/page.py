"""The look of the emulator's one page: plain HTML that reads on a desk and on a phone."""

from typing import Final

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stripe emulator</title><style>
:root {{ color-scheme: light dark }}
body {{
  font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: auto; padding: 1.5rem 1rem;
}}
h1 {{ font-size: 1.5rem; margin: 0 }}
h2 {{ font-size: 1rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere }}
table {{ width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent) }}
th:nth-child(n+3), td:nth-child(n+3) {{ text-align: right; padding: .35rem 0 .35rem .75rem }}
th, small, p {{ opacity: .7; font-weight: normal }}
small {{ display: block; font-size: .75rem; overflow-wrap: anywhere }}
</style></head>
<body><h1>Stripe emulator</h1>
<p>{now} · <a href="/_emulator/state">state</a> · <a href="/_emulator/journal">journal</a></p>
{sections}</body></html>
"""

SECTION: Final = """<h2>{account}, {mode} mode</h2>
<table><tr><th>customer</th><th>event name</th><th>value</th><th>events</th></tr>
{rows}</table>
"""
