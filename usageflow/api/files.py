"""Answers that are files: a document as PDF, a usage statement as CSV or NDJSON.

They are made for one reader and kept by nobody on the way.
"""

from typing import Final

from starlette.responses import Response, StreamingResponse

from usageflow.billing import documents, statements, typesetting
from usageflow.billing.statement_files import MEDIA_TYPES, Format, written
from usageflow.billing.statements import Detail, Statement
from usageflow.billing.typesetting import Sheet
from usageflow.db.session import Database

PDF: Final = "application/pdf"


def pdf_file(sheet: Sheet) -> Response:
    """The document. Takes some milliseconds of one core, so not for an event loop."""
    headers = _headers(documents.file_name(sheet))
    return Response(typesetting.pdf(sheet), media_type=PDF, headers=headers)


def statement_file(
    db: Database, statement: Statement, form: Format, detail: Detail
) -> StreamingResponse:
    """The statement, sent while it is read."""
    pieces = written(statements.rows(db, statement, detail), form, detail)
    headers = _headers(f"{statement.name}.{form}")
    return StreamingResponse(pieces, media_type=MEDIA_TYPES[form], headers=headers)


def _headers(name: str) -> dict[str, str]:
    """Of a file to be saved under a name of ours: letters, digits, dots and hyphens."""
    return {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
