"""The HTTP API for people and programs: FastAPI, its OpenAPI, and one shape for what goes wrong.

Routes are in `api.v1` and in the product documents' own dialects; what they do is in the rooms
below. It owns nothing.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from usageflow._version import __version__
from usageflow.api.access import Needs, Rest
from usageflow.api.exact_json import ExactRoute, answer
from usageflow.catalog.refusals import Refused
from usageflow.errors import RequestRefused

V1: Final = "/api/v1"
STATUS_OF: Final = {"not_found": 404, "conflict": 409, "invalid": 422, "forbidden": 403}
"""The status of each way to be refused."""
NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})
FIELDS_TOLD_MAX: Final = 20
"""Mistakes named in one answer."""

OUR_WORDS: Final = MappingProxyType(
    {"extra_forbidden": "is no field of this request", "missing": "is missing"}
)
"""What pydantic tells of a field, by its name for the mistake, in words for who sent it."""
NO_OBJECT: Final = ("dict_type", "missing", "model_attributes_type", "model_type")
"""Its names for a body that is not there, or is none. One that is not declared as JSON is text."""


class WrongField(BaseModel):
    """A mistake in a request, where it is."""

    field: str
    message: str


class Mistake(BaseModel):
    """Why a request was not done."""

    code: str
    message: str
    fields: list[WrongField] | None = None


class ErrorAnswer(BaseModel):
    """The answer to every request that was not done."""

    error: Mistake


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorAnswer, "description": words}
    for status, words in (
        (400, "The request cannot be read"),
        (401, "No key or session, or one that is not good"),
        (403, "Not permitted"),
        (404, "There is none in this organization"),
        (409, "What is there now forbids it"),
        (413, "The body is too large"),
        (422, "The request is wrong; `fields` says where"),
        (429, "Too many requests"),
        (503, "The database does not answer; send the same again later"),
    )
}


def v1_router(tag: str) -> APIRouter:
    """A router of `/api/v1` for one noun: exact JSON, and the errors documented."""
    return APIRouter(prefix=V1, tags=[tag], route_class=ExactRoute, responses=ERRORS)


def dialect_router(tag: str) -> APIRouter:
    """A router of `/api`, as the product documents have it."""
    return APIRouter(prefix="/api", tags=[tag], route_class=ExactRoute, responses=ERRORS)


def refusal(refused: Refused) -> NoReturn:
    """Answer with what a room refused; the transaction around it is rolled back."""
    fields = [] if refused.field is None else [(refused.field, refused.message)]
    raise RequestRefused(STATUS_OF[refused.code], refused.code, refused.message, fields=fields)


class Documented(FastAPI):
    """A FastAPI whose document tells of `paths`, too, which are no routes of its own."""

    def __init__(self, paths: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._paths = paths

    def openapi(self) -> dict[str, Any]:
        """The document, made when it is first asked for."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path, methods in self._paths.items():
                document["paths"].setdefault(path, {}).update(methods)
        return super().openapi()


def create_rest(
    rest: Rest,
    *,
    routers: Sequence[APIRouter],
    routes: Sequence[BaseRoute] = (),
    paths: Mapping[str, Any] = NOTHING,
    exception_handlers: Mapping[Any, Any] = NOTHING,
) -> FastAPI:
    """The app of these routers, and of other `routes`, of which OpenAPI tells what `paths` have."""
    app = Documented(
        paths,
        title="UsageFlow",
        version=__version__,
        summary="Meter any HTTP API durably, and bill for it.",
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{V1}/openapi.json",
        redirect_slashes=False,
        routes=list(routes),
        exception_handlers={
            RequestRefused: _refused,
            RequestValidationError: _invalid,
            HTTPException: _http,
            **exception_handlers,
        },
    )
    app.state.rest = rest
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute):
                told = {"x-permission": permission_of(route)}
                route.openapi_extra = {**(route.openapi_extra or {}), **told}
        app.include_router(router)
    return app


def permission_of(route: APIRoute) -> str | None:
    """The permission that a route needs; "" if anybody who signed in may, None if it is open."""
    for dependency in route.dependant.dependencies:
        if isinstance(dependency.call, Needs):
            return dependency.call.permission or ""
    return None


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)  # noqa: S101 - registered for it alone
    return _said(error)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        why = found[0]["ctx"]["error"]
        return _said(RequestRefused(400, "invalid_json", f"the body is not JSON: {why}"))
    fields = [(_place(one["loc"]), _words(one)) for one in found[:FIELDS_TOLD_MAX]]
    message = ": ".join(fields[0])
    return _said(RequestRefused(422, "invalid", message, fields=fields))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    status = HTTPStatus(error.status_code)
    headers = error.headers or {}
    message = str(error.detail)
    if status is HTTPStatus.NOT_FOUND:
        message = "there is no such address; /docs shows all"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"this address does not take {request.method}; /docs shows what it takes"
    return _said(RequestRefused(status, status.name.lower(), message, headers=headers))


def _place(location: Sequence[int | str]) -> str:
    """Where in the request, without "body" and its like, if there is more."""
    return ".".join(str(part) for part in location[1:] or location)


def _words(mistake: Mapping[str, Any]) -> str:
    """A mistake in our words, where those of pydantic do not tell what to do."""
    if mistake["loc"] == ("body",) and mistake["type"] in NO_OBJECT:
        return "must be a JSON object, sent with the header content-type: application/json"
    ours = OUR_WORDS.get(mistake["type"])
    return str(mistake["msg"]).removeprefix("Value error, ") if ours is None else ours


def _said(refused: RequestRefused) -> Response:
    error: dict[str, Any] = {"code": refused.code, "message": str(refused)}
    if refused.fields:
        error["fields"] = [{"field": field, "message": words} for field, words in refused.fields]
    return answer({"error": error}, refused.status, headers=refused.headers)
