"""Which code is taken from a reply, and which is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeexec_agent.parsing import MARKDOWN, TAGS, ParseError, parse_code, parse_structured, tags_of

TAKEN = {
    "tags": ("Thought: x\n<code>\nprint(1)\n</code>", "print(1)"),
    "several blocks": ("<code>\na = 1\n</code> and <code>\nb = 2\n</code>", "a = 1\n\nb = 2"),
    "cut off by a stop sequence": ("Thought: x\n<code>\nprint(1)\n", "print(1)"),
    "fence": ("Thought\n```python\nprint(1)\n```\nEnd", "print(1)"),
    "fence without language": ("```\nprint(1)\n```", "print(1)"),
    "fence py": ("```py\nprint(1)\n```", "print(1)"),
    "fence inside tags": ("<code>\n```python\nprint(1)\n```\n</code>", "print(1)"),
    "two fences": ("```python\na = 1\n```\ntext\n```python\nb = a\n```", "a = 1\n\nb = a"),
    "other languages are left out": ("```json\n{}\n```\n```python\nx = 1\n```", "x = 1"),
    "tags win over fences": ("```python\nwrong()\n```\n<code>right()</code>", "right()"),
    "indented": ("<code>\n    if x:\n        y()\n</code>", "if x:\n    y()"),
    "unclosed fence": ("```python\nprint(1)", "print(1)"),
    "a fence in a string": ("```python\ns = 'a ``` b'\n```", "s = 'a ``` b'"),
    "bare program": ("x = 1\nprint(x)", "x = 1\nprint(x)"),
    "thinking": ("<think>maybe <code>wrong()</code></think><code>right()</code>", "right()"),
    "thinking that never ends": ("<code>right()</code><think><code>wrong()</code>", "right()"),
    "made-up observation": ("<code>a()</code>\nObservation: it says\n<code>b()</code>", "a()"),
    "made-up observation, fences": ("```python\na()\n```\nObservations:\n```python\nb()\n```", "a()"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case: str) -> None:
    reply, code = TAKEN[case]
    assert parse_code(reply) == code


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "The answer is 4.",
        "Done",
        "x",
        "'text'",
        "<code>\n</code>",
        "```json\n{}\n```",
        "<think><code>a()</code></think>",
        "Observation: x\n<code>a()</code>",
        "(" * 5000,
    ],
)
def test_not_taken_and_the_model_is_told_how(reply: str) -> None:
    with pytest.raises(ParseError, match="<code>"):
        parse_code(reply)


def test_own_tags() -> None:
    assert parse_code("[[run]]x()[[/run]] <code>no()</code>", ("[[run]]", "[[/run]]")) == "x()"
    assert parse_code("<code>no</code>\n```python\nx()\n```", MARKDOWN) == "x()"
    assert tags_of(None) == TAGS and tags_of("markdown") == MARKDOWN
    for bad in ("xml", ("a",), ("", "b")):
        with pytest.raises(ValueError):
            tags_of(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "where"),
    [
        ("Thought: t\n<code>\nfor name in names:\n    remove(name", "in the middle of the code"),
        ("<code>\nx = 1\n</code> and\n<code>\ny = 2", "in the middle of the code"),
        ("```python\nx = 1\n", "in the middle of the code"),
        ("x = 1\ny = 2", "before any code"),
        ("<think>so much to think of", "before any code"),
        ("Thought: I will", "before any code"),
    ],
)
def test_half_of_a_program_is_not_run(reply: str, where: str) -> None:
    with pytest.raises(ParseError, match=f"cut off {where}.*write less at once"):
        parse_code(reply, truncated=True)


@pytest.mark.parametrize("tail", ["", "\nNow I wait for what", "\n```text\nname size\na"])
def test_what_is_cut_off_after_the_code_is_not_missed(tail: str) -> None:
    assert parse_code("<code>\nx = 1\n</code>" + tail, truncated=True) == "x = 1"
    assert parse_code("```python\nx = 1\n```" + tail, truncated=True) == "x = 1"


def test_a_stop_sequence_may_take_the_closing_tag() -> None:
    assert parse_code("<code>\nx = 1\n") == parse_code("```py\nx = 1\n") == "x = 1"


def test_structured() -> None:
    assert parse_structured('{"thought": "t", "code": "x = 1"}') == ("t", "x = 1")
    for bad in ("", "[]", '{"code": ""}', '{"thought": 1, "code": "x"}', '{"thought": "t"}', "[" * 100_000):
        with pytest.raises(ParseError, match="JSON object"):
            parse_structured(bad)
    with pytest.raises(ParseError, match="cut off before its end"):
        parse_structured('{"thought": "t", "code": "x = ', truncated=True)


@given(st.text(alphabet="<>/code`python\n :xObservationthk ", max_size=200))
def test_any_text_gives_code_or_a_lesson(text: str) -> None:
    try:
        assert parse_code(text).strip()
    except ParseError as error:
        assert "<code>" in str(error)


HUGE = ["<code>", "```python\n", "<think>", "Observation:\n", "<code></code>", "`", "\n", "<code>a"]


@pytest.mark.timeout(30)  # hours, if it went over the text once for each piece
@pytest.mark.parametrize("piece", HUGE)
def test_a_huge_reply_costs_little(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    try:
        found = parse_code(text)
    except ParseError as error:
        assert len(str(error)) < 5_000
    else:
        assert found and found in text


def test_a_reply_that_would_take_gigabytes_to_parse_is_no_program() -> None:
    with pytest.raises(ParseError):
        parse_code("import a" + ".b" * 49_000)
