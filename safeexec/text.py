"""Text from a guest is hostile to whoever reads it; here it is made harmless for a terminal or a page."""

from __future__ import annotations

import unicodedata

# C0 and C1 controls but tab and line feed: escape sequences, OSC 8 links, OSC 52 clipboard writes, cursor tricks all begin with one.
# Bidirectional and other format characters (Trojan Source), tags, line and paragraph separators, surrogates, private use.
_SUSPECT = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_KEEP = "\t\n\u200c\u200d\ufe0f"  # joiners and the emoji selector: ordinary writing needs them
_MOST = 4096
"""Characters that are remembered: a text of all there are must not fill the memory."""


_PIECE = 2**17


class _Shown(dict[int, str]):
    """How each character is shown, by its number. Looked up by the interpreter's own loop: ten times as fast as a pattern that calls a function, and a
    guest chooses how many there are."""

    def __missing__(self, code: int) -> str:
        shown = char = chr(code)
        if char not in _KEEP and unicodedata.category(char) in _SUSPECT:
            shown = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        if len(self) < _MOST:
            self[code] = shown
        return shown


_shown = _Shown()


def neutralise(text: str) -> str:
    """`text` with every character that could act on a terminal, or disguise the text around it, shown as an escape.

    Keeps tabs, line feeds and everything printable; ``\\r\\n`` becomes a line feed.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n")
    if len(text) <= _PIECE:
        return text.translate(_shown)
    # Other threads get their turn between the pieces: a file of 64 megabytes takes five seconds.
    return "".join(text[at : at + _PIECE].translate(_shown) for at in range(0, len(text), _PIECE))


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
