"""A sheet of paper as data, and the PDF of it. The one door to typst.

All text is data to the template (`invoice.typ`), so nothing in it is markup. The same sheet gives
the same bytes: fonts come with typst, and the clock is the sheet's. Writing systems that those
fonts lack (Chinese, Japanese, Korean, emoji) are set in a font of this machine that has them, such
as Noto's; where there is none, a box stands for each character, and nothing fails.
"""

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import typst

TEMPLATE: Final = Path(__file__).with_name("invoice.typ")
_INVISIBLE: Final = dict.fromkeys(
    (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ),
    " ",
)
"""Control characters, and those that turn the direction of writing: with them a name could turn
around the text it stands in."""


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and the lines below it."""

    name: str
    lines: tuple[str, ...]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table; details stand small below its description."""

    description: str
    details: tuple[str, ...] = ()
    quantity: str = ""
    unit_price: str = ""
    amount: str


class Total(msgspec.Struct, frozen=True, array_like=True):
    """A line of the sum."""

    label: str
    value: str
    strong: bool = False


class Sheet(msgspec.Struct, frozen=True, kw_only=True):
    """All that stands on a document. `stamp` is set large behind it, `badge` small below its kind;
    `made_at` is the day of its making in the file.
    """

    kind: str
    number: str
    made_at: datetime
    stamp: str | None = None
    badge: str | None = None
    issuer: Who
    payer: Who
    facts: tuple[tuple[str, str], ...]
    amount_title: str
    lines: tuple[Entry, ...]
    totals: tuple[Total, ...]
    notes: tuple[str, ...] = ()


def pdf(sheet: Sheet) -> bytes:
    """The document. Some milliseconds of one core, so not for an event loop."""
    return typst.compile(
        TEMPLATE,
        root=TEMPLATE.parent,
        font_paths=_fonts(),
        sys_inputs={"sheet": msgspec.json.encode(_visible(msgspec.to_builtins(sheet))).decode()},
        timestamp=sheet.made_at.replace(microsecond=0),  # it takes whole seconds only
    )


def _visible(value: Any) -> Any:
    """The same with a blank for each character that could not be printed."""
    if isinstance(value, str):
        return value.translate(_INVISIBLE)
    if isinstance(value, dict):
        return {name: _visible(one) for name, one in value.items()}
    return [_visible(one) for one in value] if isinstance(value, (list, tuple)) else value


@cache
def _fonts() -> typst.Fonts:
    """Looked for once: those of typst, and for what they lack those of the machine."""
    return typst.Fonts()
