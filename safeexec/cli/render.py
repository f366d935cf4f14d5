"""What people read: output as it comes, values, errors, lists of what was made.

On a terminal everything that came out of a sandbox is neutralised: a control character could write the clipboard, retitle the window or forge what
was printed before. In a pipe the program's own output, and a string that is its value, pass as they are (UTF-8), because there the bytes are what
was asked for; everything that safeexec writes about the program (tracebacks, names, other values) is neutralised there too.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

from safeexec.cli import values
from safeexec.cli.exits import OutputLost, exits_clean
from safeexec.cli.units import human
from safeexec.result import Display, FileInfo, GuestError, Result
from safeexec.step import Output
from safeexec.text import neutralise, neutralise_line

_MAX_ERROR = 60_000
_HINTS = {
    "time": "--timeout S gives it more time",
    "memory": "--memory SIZE gives it more memory",
    "output": "--output-limit SIZE lets it write more",
}
_PACKAGES = "--package P adds a package; local installs none and has what is installed beside safeexec"
_TYPES = {
    "ModuleNotFoundError": _PACKAGES,  # it was allowed: to allow it again would change nothing
    "FileNotFoundError": "the sandbox sees none of your files but those that --file PATH places in its working directory",
    **dict.fromkeys(
        ("URLError", "gaierror", "ConnectError", "NameResolutionError"), "--allow-net HOST lets it reach a host"
    ),
}
_IMPORTS = f"--allow-import M allows one more module, M.* those below it; {_PACKAGES}"
_CODES = {"bold": "1", "dim": "2", "red": "31", "cyan": "36", "yellow": "33"}
_SGR_END = "\x1b[0m"
_PLACE = re.compile(r'( *(?:[|+-] *)*)(File "[^\n]*", line [0-9]+.*)')
_MARKS = re.compile(r"[ |]*[~^]+")


class Stream:
    """One output stream of this process. Remembers whether it is a terminal, and where its line stands."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.tty = stream is not None and stream.isatty()
        self.colour = self.tty and "NO_COLOR" not in os.environ and os.environ.get("TERM", "") != "dumb"
        self.at_start = True
        self._held = ""

    def guest(self, text: str) -> None:
        """Text that the program wrote, as it comes. Raises BrokenPipeError, OutputLost."""
        if self.tty:
            text, self._held = self._held + text, ""
            if text.endswith("\r"):  # the line feed that makes it harmless may come in the next piece
                text, self._held = text[:-1], "\r"
            text = neutralise(text)
        self._write(text)

    def line(self, text: str, *styles: str) -> None:
        """Lines of ours, with whatever they quote made harmless; on a line of their own."""
        self.fresh()
        self._write(self.styled(neutralise(text), *styles) + "\n")

    def raw_line(self, text: str) -> None:
        """A string value in a pipe: as it is."""
        self.fresh()
        self._write(text if text.endswith("\n") else text + "\n")

    def fresh(self) -> None:
        """Start a line unless one starts here."""
        if self._held:
            held, self._held = self._held, ""
            self._write(neutralise(held))
        if not self.at_start:
            self._write("\n")

    def styled(self, text: str, *styles: str) -> str:
        """`text`, which must be harmless already, in these styles where the stream shows colours."""
        if not self.colour or not styles or not text:
            return text
        return f"\x1b[{';'.join(_CODES[style] for style in styles)}m{text}{_SGR_END}"

    def _write(self, text: str) -> None:
        if self._stream is None or not text:
            return
        encoding = (self._stream.encoding or "utf-8") if self.tty else "utf-8"
        try:
            self._stream.flush()
            buffer = self._stream.buffer
            buffer.write(text.encode(encoding, "backslashreplace"))
            buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._stream = None  # what did not fit must not be tried again
            raise OutputLost(error.strerror) from error
        self.at_start = text.endswith("\n")

    # Lines of more than one style; the pieces are harmless already.
    def pieces(self, text: str) -> None:
        """Lines that are harmless and styled already."""
        self.fresh()
        self._write(text + "\n")


class Screen:
    """Both streams, and everything that is shown about a step."""

    def __init__(self, out: TextIO | None, err: TextIO | None) -> None:
        self.out = Stream(out)
        self.err = Stream(err)

    def output(self, piece: Output) -> None:
        """For ``Session.run(on_output=…)``."""
        (self.err if piece.stream == "stderr" else self.out).guest(piece)

    def interrupted(self) -> None:
        """Ctrl-C was pressed: the terminal shows ^C where the line stood."""
        if self.out.tty:
            self.out.at_start = False
            self.out.fresh()

    def note(self, text: str) -> None:
        """A remark of ours, on stderr."""
        self._shared_line(self.err)
        self.err.line(f"safeexec: {text}", "dim")

    def value(self, value: object, as_repr: bool = False) -> None:
        """The value of the last expression: what Python's prompt shows; in a pipe, strings as they are."""
        if value is None:
            return
        if isinstance(value, str) and not self.out.tty and not as_repr:
            self.out.raw_line(value)
        else:
            self.out.line(values.text(value))

    def error(self, error: GuestError, name: str | None = None) -> None:
        """The program's failure, on stderr: traceback, message, hint. `name` is what to call the step's source."""
        self._shared_line(self.err)
        if error.kind == "exit":
            if not exits_clean(error) and not error.message.lstrip("-").isdecimal():
                self.err.line(_cut(error.message))  # as Python does for sys.exit("message")
            return
        trace = error.traceback.rstrip("\n")
        if error.kind == "policy" and trace.endswith(f": {error.message}"):
            # Its last line names a class of the sandbox's own; what the program could catch it as says more.
            trace = trace[: -len(error.message) - 2].rpartition("\n")[0]
        if name is not None:
            trace = trace.replace('File "<step 1>"', f'File "{name}"')
        if trace:
            self.err.pieces(self._traceback(neutralise(_cut(trace))))
        if not _names(trace, error.type):
            message = neutralise(_cut(error.message))
            kind = self.err.styled(neutralise_line(error.type, 200), "bold", "red")
            self.err.pieces(kind + (f": {message}" if message else ""))
        hint = _HINTS.get(error.kind)
        if error.kind == "policy" and error.type == "ImportError":
            hint = _IMPORTS
        elif error.kind == "exception":
            hint = _TYPES.get(error.type)
        if hint is not None:
            self.err.pieces(self.err.styled(f"hint: {hint}", "yellow"))

    def _traceback(self, text: str) -> str:
        if not self.err.colour:
            return text
        shown = []
        for line in text.split("\n"):
            place = _PLACE.fullmatch(line)
            if place:
                shown.append(place[1] + self.err.styled(place[2], "cyan"))
            elif _MARKS.fullmatch(line):
                shown.append(self.err.styled(line, "red"))
            elif line.startswith("Traceback ("):
                shown.append(self.err.styled(line, "dim"))
            elif line and not line.startswith((" ", "|", "+")):
                kind, colon, rest = line.partition(":")
                shown.append(self.err.styled(kind, "bold", "red") + colon + rest)
            else:
                shown.append(line)
        return "\n".join(shown)

    def step(self, result: Result, *, saves: bool, as_repr: bool = False, name: str | None = None) -> None:
        """Everything about a step but its output, which was shown as it came."""
        for display in result.displays:
            if _is_text(display):
                self.out.line(str(display["text/plain"]))
        self.value(result.value, as_repr)
        self._made(result, saves)
        if result.truncated:
            self.note("output, displays or the value were cut at a limit; --output-limit SIZE raises the one on output")
        if result.error is not None:
            self.error(result.error, name)
        if self.out.tty:  # a pipe gets no byte that the program did not write
            self.out.fresh()

    def _made(self, result: Result, saves: bool) -> None:
        for number, display in enumerate(result.displays, 1):
            if not _is_text(display):
                self.note(f"display {number}: {_display(display)}")
        for info in result.files[:20]:
            self.note(f"file {_file(info)}")
        if len(result.files) > 20:
            self.note(f"and {len(result.files) - 20} more files")
        if not saves and (result.files or not all(map(_is_text, result.displays))):
            self.note("--save-files DIR saves files, pictures and HTML")

    def _shared_line(self, stream: Stream) -> None:
        # On a terminal both streams share the line: what stdout left open must not run into ours.
        if stream.tty and self.out.tty:
            self.out.fresh()


def _names(trace: str, kind: str) -> bool:
    """Whether a line of the traceback says what kind of error it was, as ``kind`` or ``module.kind``."""
    heads = [line.lstrip(" |") + ":" for line in trace.split("\n")]
    return any(head.startswith(f"{kind}:") or f".{kind}:" in head for head in heads)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_ERROR else text[: _MAX_ERROR // 2] + "\n[…]\n" + text[-_MAX_ERROR // 2 :]


def _is_text(display: Display) -> bool:
    return set(display.data) == {"text/plain"}


def _display(display: Display) -> str:
    parts = []
    for mime, data in display.data.items():
        size = len(data.encode("utf-8", "replace")) if isinstance(data, str) else len(data)
        parts.append(f"{mime} ({human(size)})")
    return neutralise_line(", ".join(parts))


def _file(info: FileInfo) -> str:
    return f"{neutralise_line(info.name, 200)} ({human(info.size)})"
