"""The room as others see it."""

import subprocess
import sys

import usageflow.policies


def test_the_public_names_exist_and_are_sorted() -> None:
    """`__all__` is what the room offers."""
    names = usageflow.policies.__all__
    assert names == sorted(names)
    assert all(hasattr(usageflow.policies, name) for name in names)


def test_importing_the_room_is_light_and_pure() -> None:
    """No framework, no database, no event loop: the room can run in any app and any tool."""
    heavy = {"asyncio", "sqlite3", "ssl", "starlette", "fastapi", "httpx", "uvicorn", "jinja2"}
    heavy |= {"sqlalchemy", "sqlmodel", "stripe"}
    code = f"import sys, usageflow.policies; print(*({heavy} & sys.modules.keys()))"
    # An empty environment, so that a coverage run does not load its own modules there.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == ""
