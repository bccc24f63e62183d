"""The policy file: what is read, and every problem with its place."""

import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usageflow.errors import PolicyFileError
from usageflow.policies.file import PolicyFile, parse

CHAT = """\
[[policy]]
name     = "chat"
match    = "POST /v1/chat"
identify = [{ from = "header", name = "x-account" }]
field    = "account_id"
metric   = "TOKENS"
quantity = 0.10
"""


def problems(text: str) -> list[str]:
    """The problems of a file called p.toml, without its name."""
    return [problem.removeprefix("p.toml:") for problem in parse(text, "p.toml").problems]


def test_a_policy_is_read_exactly() -> None:
    """Numbers are Decimals as written; the version names the content."""
    found = parse(CHAT, "p.toml")
    ((policy, version),) = found.policies
    assert found.problems == ()
    assert (policy.name, policy.quantity) == ("chat", Decimal("0.10"))
    assert re.fullmatch("f[0-9a-f]{12}", version)


def test_the_version_follows_the_meaning() -> None:
    """Layout, order and what equals the default change nothing; another value does."""

    def version(text: str) -> str:
        return parse(text, "p.toml").policies[0][1]

    assert version(CHAT + '# a comment\nwhen = "success"\n') == version(CHAT)
    assert version(CHAT.replace("POST /v1/chat", "POST /v1/chat2")) != version(CHAT)


def test_a_file_without_policies_is_an_empty_set() -> None:
    """But one without a word is a mistake: an editor may be about to write it."""
    assert parse("# none", "p.toml") == PolicyFile((), (), (), (), ())
    with pytest.raises(PolicyFileError, match=r"p\.toml:1:1: is empty"):
        parse(" \n", "p.toml")


def test_a_policy_that_is_left_out_is_named() -> None:
    """So that a reload can keep what it was before."""
    found = parse(CHAT + CHAT.replace("metric", "metrik").replace('"chat"', '"wrong"'), "p.toml")
    assert found.left_out == {"wrong"}


def test_one_bad_policy_leaves_the_others() -> None:
    """Every problem is one line with file, line, policy, field and reason."""
    found = parse(
        CHAT
        + """
[[policy]]   # the second one
name = "bad"
match = "POST v1"
"identify" = [
  { from = "hedaer", name = "x" },
]
feild = "x"
metric = "TOKENS"
quantity = "sum(response.body"

[[policy]]
name = "third"
match = ["GET /c", "GET /d"]
identify = [{ from = "query", name = "k" }]
field = "account_id"
metric = "TOKENS"
""",
        "conf/p.toml",
    )
    assert [policy.name for policy, _ in found.policies] == ["chat", "third"]
    assert found.problems == (
        'conf/p.toml:9: policy "bad" (#2): field: is required',
        (
            'conf/p.toml:11: policy "bad" (#2): match[1]: "POST v1" has no path: '
            "write METHOD /path, such as POST /v1/chat"
        ),
        (
            'conf/p.toml:12: policy "bad" (#2): identify[1]: from: "hedaer" is not one of '
            'header, query, path, body, cookie, api_key, jwt, metadata; did you mean "header"?'
        ),
        'conf/p.toml:15: policy "bad" (#2): feild: is not known; did you mean "field"?',
        'conf/p.toml:17: policy "bad" (#2): quantity: column 18: the expression is incomplete',
    )


def test_conflicts_are_told_where_the_second_one_is() -> None:
    """A second policy of the same name, or for the same requests, is left out with its line."""
    second = CHAT.replace('"chat"', '"two"')
    assert problems(CHAT + CHAT + second) == [
        '9: policy "chat" (#2): name: another policy is called "chat" too',
        (
            '17: policy "two" (#3): match: "POST /v1/chat" and "POST /v1/chat" of policy "chat" '
            "both count TOKENS for the same requests"
        ),
    ]


def test_sources_may_be_tables_of_their_own() -> None:
    """`[[policy.identify]]` is the other way TOML has to write a list of tables."""
    text = (
        CHAT.replace("identify = [{", "# [{") + '[[policy.identify]]\nfrom = "path"\nname = "x"\n'
    )
    assert problems(text) == [
        '8: policy "chat" (#1): identify: the path "/v1/chat" has no parameter "x"'
    ]
    assert problems(text.replace("path", "header")) == []
    nameless = text.replace('name     = "chat"', "")
    assert problems(nameless)[0] == "1: policy (#1): name: is required"


def test_a_policy_names_a_declared_metric() -> None:
    """If a file declares metrics, a slip in a policy does not make a new one."""
    declared = '[[metric]]\nkey = "TOKEN"\nname = "AI tokens"\nunit = "token"\n' + CHAT
    assert problems(declared) == [
        (
            '10: policy "chat" (#1): metric: "TOKENS" is not declared as a [[metric]]; '
            'did you mean "TOKEN"?'
        )
    ]
    found = parse(declared.replace('"TOKEN"', '"TOKENS"'), "p.toml")
    assert found.problems == ()
    assert [(metric.key, metric.unit) for metric in found.metrics] == [("TOKENS", "token")]


def test_a_wrong_metric_is_told_with_its_place() -> None:
    """Unknown keys, missing keys and a second declaration are problems of the metric."""
    text = '[[metric]]\nkey = "A"\nunti = "x"\n[[metric]]\nkey = "B"\n[[metric]]\n\nkey = "B"\n'
    assert problems(text) == [
        '3: metric (#1): unti: is not known; did you mean "unit"?',
        '8: metric (#3): key: "B" is declared twice',
    ]


EXAMPLE = """
[[example]]
name = "a chat counts 0.1"
request = "POST /v1/chat"
request_headers = { x-account = "a1" }
expect = [{ policy = "chat", quantity = 0.1 }]

[[exempt]]
match = "GET /health"
reason = "the load balancer asks"
"""


def test_examples_and_exemptions_are_read_beside_the_policies() -> None:
    """They are no part of what is in force: the policies and their versions stay the same."""
    found = parse(CHAT + EXAMPLE, "p.toml")
    assert found.problems == ()
    assert found.policies == parse(CHAT, "p.toml").policies
    ((example),) = found.examples
    assert (example.name, example.expect[0].quantity) == ("a chat counts 0.1", Decimal("0.1"))
    ((exemption),) = found.exemptions
    assert (exemption.match, exemption.reason) == (("GET /health",), "the load balancer asks")


def test_problems_of_examples_and_exemptions_have_their_places() -> None:
    """With the example's name, its own line, and a hint for a key that is nearly right."""
    text = EXAMPLE.replace("request =", "requets =").replace('"GET /health"', '"/health"')
    assert problems(CHAT + text.replace('reason = "the', 'reason = "" #')) == [
        '9: example "a chat counts 0.1" (#1): request: is required',
        ('11: example "a chat counts 0.1" (#1): requets: is not known; did you mean "request"?'),
        ('16: exempt (#1): match: "/health" has no method: write "GET /health" or "ANY /health"'),
        "17: exempt (#1): reason: string should have at least 1 character",
    ]


def test_what_is_expected_may_be_tables_of_their_own() -> None:
    """`[[example.expect]]` and `[example.metadata]` belong to the example above them."""
    text = CHAT + EXAMPLE.split("expect =", maxsplit=1)[0]
    text += '[example.metadata]\ntenant = "t1"\n[[example.expect]]\npolicy = 5\n'
    assert problems(text) == [
        '15: example "a chat counts 0.1" (#1): expect[1].policy: must be text'
    ]
    ((example),) = parse(text.replace("= 5", '= "chat"'), "p.toml").examples
    assert (example.metadata, example.expect[0].policy) == ({"tenant": "t1"}, "chat")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n[polices]\n", '2: "polices" is not known; did you mean "policy"?'),
        ("\n\nversion = 1\n", '3: "version" is not known'),
        ("a.b = 1\n", '1: "a" is not known'),
        ("\n[policy]\nname = 'x'\n", "2: policy: write [[policy]], with two brackets"),
        ("policy = 5\n", "1: policy: write [[policy]], with two brackets"),
        ("\npolicy = [5]\n", "2: policy (#1): must be a table"),
    ],
)
def test_what_is_no_list_of_policies_is_told(text: str, problem: str) -> None:
    """A wrong table name is not silently an empty policy set."""
    assert problems(text) == [problem]


def test_lines_are_right_beside_multi_line_strings() -> None:
    """What looks like a table or a key inside of a string is none."""
    text = '''\
[[policy]]  # """ opens nothing in a comment
name = "a \\" b"
event_name = """
[[policy]]
whn = 1
"""
field = \'\'\'
x\'\'\'
match = "it's"
whn = 2
'''
    lines = {problem.split(" (#1): ")[1].split(":")[0]: problem for problem in problems(text)}
    assert lines["event_name"].startswith("3: ")
    assert lines["match[1]"].startswith("9: ")
    assert lines["whn"].startswith("10: ")
    assert lines["metric"].startswith("1: ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[policy]]\nname = \n", "p.toml:2:8: Invalid value"),
        ("[[policy]]\nname", "p.toml:2:5: Expected '=' after a key in a key/value pair"),
        ('a = "', "p.toml:1:6: Unterminated string"),
        ("a = 1e99999999999999999999", "p.toml:1:1: a number has too many digits"),
        ("a = " + "1" * 5_000, "p.toml:1:1: a number has too many digits"),
        ("a = " + "[" * 50_000, "p.toml:1:1: nested too deeply"),
    ],
)
def test_what_is_not_toml_has_line_and_column(text: str, problem: str) -> None:
    """A file that cannot be read at all is one error, with its place."""
    with pytest.raises(PolicyFileError) as refused:
        parse(text, "p.toml")
    assert refused.value.problems == (problem,)


lines = st.sampled_from(
    [
        *CHAT.splitlines(),
        "[[metric]]",
        "[[example]]",
        'request = "GET /v1/chat"',
        "[[example.expect]]",
        "[example.metadata]",
        "[[exempt]]",
        'reason = "r"',
        'key = "A"',
        "[[policy.identify]]",
        'from = "path"',
        "[policy]",
        'x = """',
        '"""',
        "quantity = nan",
        "match = [1, {}]",
        "when = 1979-05-27",
        "on_missing = -1e5",
        "policy = [{}, 1]",
        "identify = [[]]",
        "\x00",
    ]
)


@given(st.text(max_size=60) | st.lists(lines, max_size=12).map("\n".join))
@example("\x1f=")
@example("''''''''=1")
def test_any_text_is_read_or_refused(text: str) -> None:
    """No file raises anything but PolicyFileError, and each problem has its place."""
    try:
        found = parse(text, "p.toml")
    except PolicyFileError:
        return
    for problem in found.problems:
        assert re.match(r"p\.toml:\d+: ", problem)
