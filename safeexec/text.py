"""Text from a guest is hostile to whoever reads it; here it is made harmless for a terminal or a page."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# C0 and C1 controls but tab and line feed: escape sequences, OSC 8 links, OSC 52 clipboard writes, cursor tricks all begin with one.
# Bidirectional and other format characters (Trojan Source), tags, line and paragraph separators, surrogates, private use.
_SUSPECT = "[^\n\t -~\xa1-\xac\xae-\u02ff\u03a3-\u052f\u3041-\u3096\u3099-\u30ff\u4e00-\u9ffc\uac00-\ud7a3]"
_KEEP = frozenset("\u200c\u200d\ufe0f")  # joiners and the emoji selector: ordinary writing needs them


def _shown(match: re.Match[str]) -> str:
    char = match[0]
    if char in _KEEP or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def neutralise(text: str) -> str:
    """`text` with every character that could act on a terminal, or disguise the text around it, shown as an escape.

    Keeps tabs, line feeds and everything printable; ``\\r\\n`` becomes a line feed.
    """
    if text.isascii() and text.isprintable():
        return text
    return _suspect().sub(_shown, text.replace("\r\n", "\n"))


@lru_cache(maxsize=1)
def _suspect() -> re.Pattern[str]:
    return re.compile(_SUSPECT)  # on first use: it takes 2 ms, and most runs show nothing but plain text


def neutralise_line(text: str, length: int = 500) -> str:
    """As :func:`neutralise`, on one line of at most `length` characters."""
    line = neutralise(text).replace("\n", "\\n").replace("\t", " ")
    return line if len(line) <= length else line[: length - 1] + "…"


def iframe(markup: str, title: str = "display") -> str:
    """An HTML or SVG display as an iframe that runs no script, reaches no origin and loads nothing.

    ``sandbox=""`` gives the frame an opaque origin without scripts, forms, pop-ups or navigation of the page around it; the policy in its
    head stops requests (a picture's address would carry data out).
    """
    import html  # 1 ms that only pages need

    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:"
    page = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">{markup}'
    )
    return (
        f'<iframe sandbox="" referrerpolicy="no-referrer" title="{html.escape(title)}" '
        f'style="border:0;width:100%" srcdoc="{html.escape(page)}"></iframe>'
    )
