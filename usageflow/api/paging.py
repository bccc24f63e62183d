"""Long lists, page by page: `?page=2&page_size=50` in, `{data, meta}` out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import Depends, Query, Response
from pydantic import BaseModel

from usageflow.api.exact_json import Answer, answer

PAGE_SIZE: Final = 20
PAGE_SIZE_MAX: Final = 100
"""What one answer may cost to make; more is for exports."""
PAGE_MAX: Final = 1_000_000

Item = TypeVar("Item", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    number: int
    size: int

    @property
    def offset(self) -> int:
        """How many items come before it."""
        return (self.number - 1) * self.size

    @property
    def limit(self) -> int:
        """How many items it has at most."""
        return self.size


class Meta(Answer):
    """Where a page lies in its list."""

    page: int
    page_size: int
    total: int
    total_pages: int


class Listed(Answer, Generic[Item]):
    """One page of a list; `response_model=Listed[PlanOut]`."""

    data: list[Item]
    meta: Meta


def _page(
    page: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 1,
    page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = PAGE_SIZE,
) -> Page:
    return Page(page, page_size)


PageDep = Annotated[Page, Depends(_page)]


def listed(items: Sequence[BaseModel], total: int, page: Page) -> Response:
    """The answer with one page of `total` items."""
    meta = {
        "page": page.number,
        "page_size": page.size,
        "total": total,
        "total_pages": -(-total // page.size),
    }
    data: list[Any] = [item.model_dump(by_alias=True) for item in items]
    return answer({"data": data, "meta": meta})
