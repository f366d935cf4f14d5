"""File names that come from, or go to, a sandbox."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from safeexec.errors import PolicyError

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$", *(f"{d}{n}" for d in ("com", "lpt") for n in "0123456789¹²³")]
)


class UnsafeName(PolicyError):
    """A file name that could reach outside its directory, or mean different files on different systems."""


def check_name(name: object) -> str:
    """Return `name` if it is a plain relative path with forward slashes; raise UnsafeName for anything else.

    Refused: empty, absolute, drive letters, ``..``, ``.``, backslashes, control and bidirectional characters, trailing dots or spaces,
    device names of Windows, parts of more than 255 bytes.
    """
    if not isinstance(name, str) or type(name) is not str:
        raise UnsafeName(f"a file name must be a string, not {type(name).__name__}")
    shown = ascii(name if len(name) < 200 else name[:200] + "…")
    if not name or len(name) > 1024:
        raise UnsafeName(f"file name {shown} is empty or too long")
    if "\\" in name or ":" in name:
        raise UnsafeName(f"file name {shown} has a backslash or a colon")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UnsafeName(f"file name {shown} is not valid Unicode") from None
    for char in name:
        # Cc, Cf: control characters and bidirectional overrides disguise a name; Cs, Co, Cn: no portable meaning.
        # Zl, Zp: line and paragraph separators split one name into two for whoever reads a list of them.
        if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029":
            raise UnsafeName(f"file name {shown} has a control or format character")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise UnsafeName(f"file name {shown} is absolute, or has an empty, '.' or '..' part")
        if part != part.strip(" ") or part.endswith(".") or len(part.encode()) > 255:
            raise UnsafeName(f"file name {shown} has a part that ends in a dot or space, or is too long")
        if part.partition(".")[0].rstrip(" ").lower() in _DEVICES:
            raise UnsafeName(f"file name {shown} is a device on some systems")
    return name


def check_collisions(names: Iterable[str]) -> None:
    """Raise UnsafeName when two names are one file where case or Unicode form does not count, or a file is another's folder."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
        if key in seen:
            raise UnsafeName(f"file names {seen[key]!a} and {name!a} are the same file on some systems")
        seen[key] = name
    for key, name in seen.items():
        parent = key.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise UnsafeName(f"file name {seen[parent]!a} is also the folder of {name!a}")
            parent = parent.rpartition("/")[0]
