"""What every request has, whichever route it takes: an id, and a body within bounds."""

import re
from typing import Final

from usageflow._types import ASGIApp, Message, Receive, Scope, Send
from usageflow.db.ids import new_id

REQUEST_ID: Final = b"x-request-id"
_FORM: Final = re.compile(rb"[A-Za-z0-9._-]{8,100}")
"""An id that somebody else gave may be kept if it can stand in a log."""


class RequestIds:
    """Gives each request an id, or keeps the one it has, and tells it in `x-request-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; the app finds its id in `scope["state"]["request_id"]`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == REQUEST_ID), b"")
        request_id = given if _FORM.fullmatch(given) else new_id("req").encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (REQUEST_ID, request_id)]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, told)
