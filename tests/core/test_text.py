"""Text from a guest cannot act on a terminal, on rich's markup, or on the page around it."""

from __future__ import annotations

import html.parser
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from safeexec.text import iframe, neutralise, neutralise_line

HARMFUL = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
any_text = st.text(
    st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\x1b\x07\x9b\u202e\u2066\xad\u2028\r\b[]\\")
)


def test_every_character_there_is() -> None:
    shown = neutralise("".join(map(chr, range(0x110000))))
    left = {c for c in set(shown) - set("\n\t\u200c\u200d\ufe0f") if unicodedata.category(c) in HARMFUL}
    assert left == set()


@given(any_text)
def test_no_harmful_character_is_left(text: str) -> None:
    shown = neutralise(text)
    assert not [c for c in shown if c not in "\n\t\u200c\u200d\ufe0f" and unicodedata.category(c) in HARMFUL]
    assert neutralise(shown) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs", "M"])))
def test_ordinary_writing_is_untouched(text: str) -> None:
    assert neutralise(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]8;;https://evil\x1b\\link", "\\x1b]8;;https://evil\\x1b\\link"),
        ("\x1b]52;c;AAAA\x07", "\\x1b]52;c;AAAA\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("safe\rEVIL", "safe\\x0dEVIL"),
        ("a\r\nb", "a\nb"),
        ("abc\u202edcb", "abc\\u202edcb"),
        ("a\u2028b", "a\\u2028b"),
        ("soft\xadhyphen", "soft\\xadhyphen"),
        ("\U000e0041tag", "\\U000e0041tag"),
        ("\ud800", "\\ud800"),
        ("👩\u200d👩\u200d👧 ❤\ufe0f naïve\tok\n", "👩\u200d👩\u200d👧 ❤\ufe0f naïve\tok\n"),
    ],
)
def test_known_tricks(text: str, shown: str) -> None:
    assert neutralise(text) == shown
    assert neutralise(text).encode()


@given(any_text, st.integers(1, 40))
def test_one_line_stays_one_line(text: str, length: int) -> None:
    line = neutralise_line(text, length)
    assert "\n" not in line and "\t" not in line and len(line) <= length


def terminal(*, markup: bool, text: object) -> str:
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=10_000, markup=markup, highlight=False, emoji=False).print(
        text, end="", soft_wrap=True
    )
    return stream.getvalue()


@given(any_text)
def test_rich_markup_in_it_is_inert(text: str) -> None:
    shown = neutralise(text).replace("\t", " ")
    for printed in (terminal(markup=False, text=Text(shown)), terminal(markup=True, text=escape(shown))):
        assert "\x1b" not in printed


def test_markup_and_links_are_printed_as_they_are() -> None:
    shown = neutralise("[link=https://evil]x[/link][red]y[/red] :smile:")
    assert terminal(markup=False, text=Text(shown)) == shown
    assert terminal(markup=True, text=escape(shown)) == shown


class Page(html.parser.HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(
    any_text
    | st.sampled_from(
        [
            '"><script>alert(1)</script>',
            "'--><img src=x onerror=y>",
            "</iframe><script>",
            '&quot;><b onload="x">',
            "<!--",
            "\0",
        ]
    ),
    any_text,
)
def test_markup_cannot_leave_its_frame(markup: str, title: str) -> None:
    page = Page(iframe(markup, title))
    assert [tag for tag, _ in page.tags] == ["iframe"] and page.text == ""
    attributes = page.tags[0][1]
    assert set(attributes) == {"sandbox", "referrerpolicy", "title", "style", "srcdoc"}
    assert attributes["sandbox"] == ""
    inner = attributes["srcdoc"]
    assert inner is not None and inner.index("Content-Security-Policy") < len(inner) - len(markup)


def test_policy_of_the_frame_comes_before_the_markup_and_allows_no_request() -> None:
    inner = Page(iframe("<img src=https://evil/x>")).tags[0][1]["srcdoc"]
    assert inner is not None
    tags = Page(inner).tags
    assert [t for t, _ in tags] == ["meta", "meta", "img"]
    policy = tags[1][1]["content"]
    assert policy is not None and "default-src 'none'" in policy
    assert "script-src" not in policy and "http" not in policy


def test_text_that_is_long_is_made_harmless_in_pieces() -> None:
    text = "a\r\n\x1b" * 200_000
    assert neutralise(text) == "a\n\\x1b" * 200_000
