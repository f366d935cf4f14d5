"""The program that ``safeexec run`` was given, as text. Nothing here parses or compiles it."""

from __future__ import annotations

import os
import sys
from typing import IO

from safeexec.cli.exits import Failure

MAX_PROGRAM = 16 * 2**20
"""Bytes. A program without end (/dev/zero, say) must not fill the host's memory."""


def read_program(path: str | None, code: str | None) -> str:
    """The source: `code`, the file at `path`, or standard input. Raises Failure."""
    if code is not None:
        if path is not None:
            raise Failure("give FILE or -c CODE, not both")
        return argument(code, "-c")
    if path is not None and path != "-":
        try:
            with open(path, "rb") as file:
                return _decode(_read(file, path), path)
        except OSError as error:
            raise Failure(
                f"{path}: {error.strerror or error}; give the path of a Python file that can be read"
            ) from None
    if sys.stdin is None or (path is None and sys.stdin.isatty()):
        raise Failure("nothing to run: give FILE, -c CODE, or - for standard input ('safeexec repl' is interactive)")
    return _decode(_read(sys.stdin.buffer, "standard input"), "standard input")


def argument(text: str, name: str) -> str:
    """An argument of the command line as it was typed: where the locale is not UTF-8, Python may have other characters in its place. Raises Failure."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _decode(os.fsencode(text), name)
    return text


def _read(file: IO[bytes], name: str) -> bytes:
    data = file.read(MAX_PROGRAM + 1)
    if len(data) > MAX_PROGRAM:
        raise Failure(f"{name} is larger than {MAX_PROGRAM // 2**20} MiB; that is no program")
    return data


def _decode(data: bytes, name: str) -> str:
    encoding = "utf-8-sig"
    try:
        if any(b"coding" in line for line in data.split(b"\n", 2)[:2]):  # perhaps a cookie, see PEP 263
            from io import BytesIO
            from tokenize import detect_encoding

            encoding = detect_encoding(BytesIO(data).readline)[0]
        return data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        shown = "UTF-8" if encoding == "utf-8-sig" else encoding
        raise Failure(f"{name} is not text in {shown}: {error}; save it as UTF-8") from None
