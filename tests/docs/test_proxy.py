"""What the page about the proxy says of paths that no policy matches."""

import re
from pathlib import Path
from urllib.parse import unquote

from usageflow.policies import PolicySet, parse_file

POLICY = """
[[policy]]
name = "example"
match = "{match}"
identify = [{{ from = "header", name = "x-account-id" }}]
field = "account_id"
metric = "METRIC"
"""


def metered(match: str, requests: list[str]) -> set[bool]:
    """Whether a policy with this template matches these requests."""
    parsed = parse_file(POLICY.format(match=match), "policies.toml")
    assert parsed.problems == ()
    policies = PolicySet.build(parsed.policies)
    split = (request.partition("?")[0].split(" ") for request in requests)
    return {policies.match(method, unquote(path)) is not None for method, path in split}


def test_only_the_decoded_path_as_it_came_matches(root: Path) -> None:
    """Each request of the table, and the catch-all that the page advises takes them all."""
    text = (root / "docs" / "proxy.md").read_text(encoding="utf-8")
    example, advised = re.findall(r'`match = "(.+?)"`', text)
    rows = re.findall(r"^\| (`.+`) \| (yes|no) \|$", text, re.MULTILINE)
    assert [answer for _, answer in rows] == ["yes", "no"]
    for cell, answer in rows:
        requests = re.findall("`(.+?)`", cell)
        assert metered(example, requests) == {answer == "yes"}
        assert metered(advised, requests) == {True}
