"""traceback and linecache: the program's own lines, no frames."""

from __future__ import annotations

import operator
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import is_guest_frame, is_own_file

from .frames import chain, is_shown, of_traceback

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


class FrameSummary:
    """As `traceback.FrameSummary`, which would read its line from any file."""

    __slots__ = ("filename", "line", "lineno", "name")

    def __init__(self, filename: Any, lineno: Any, name: Any, *, line: Any = None, **more: Any) -> None:
        self.filename = filename
        self.lineno = lineno
        self.name = name
        self.line = line

    def __iter__(self) -> Any:
        return iter([self.filename, self.lineno, self.name, self.line])

    def __getitem__(self, index: Any) -> Any:
        return (self.filename, self.lineno, self.name, self.line)[index]

    def __len__(self) -> int:
        return 4

    def __repr__(self) -> str:
        return f"<FrameSummary file {self.filename}, line {self.lineno} in {self.name}>"


def keep(frame: traceback.FrameSummary) -> bool:
    """Whether a line is the program's."""
    return is_own_file(frame.filename)


def trimmed(error: BaseException, limit: Any = None) -> traceback.TracebackException:
    """What there is to say of an error, the program's own lines only."""
    report = traceback.TracebackException(type(error), error, error.__traceback__, limit=limit)
    queue: list[Any] = [report]
    seen: set[int] = set()
    while queue:
        item = queue.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        item.stack = traceback.StackSummary.from_list([f for f in item.stack if keep(f)])
        queue += [item.__cause__, item.__context__, *(getattr(item, "exceptions", None) or ())]
    return report


def _traceback(language: RestrictedLanguage) -> Exports:
    def format_exception(
        exc: Any, /, value: Any = None, tb: Any = None, limit: Any = None, chain: bool = True
    ) -> list[str]:
        """As `traceback.format_exception`, the program's own lines only."""
        error = value if value is not None else exc
        if not isinstance(error, BaseException):
            return ["NoneType: None\n"]
        lines = list(trimmed(error, limit).format(chain=chain))
        if error.__traceback__ is not None and len(lines) == 1:  # it was raised inside the library
            lines.insert(0, "Traceback (most recent call last):\n")
        return lines

    def format_exc(limit: Any = None, chain: bool = True) -> str:
        """As `traceback.format_exc`."""
        return "".join(format_exception(sys.exc_info()[1], None, None, limit, chain))

    def print_exception(exc: Any, /, value: Any = None, tb: Any = None, limit: Any = None, file: Any = None,
                        chain: bool = True) -> None:  # fmt: skip
        """As `traceback.print_exception`."""
        text = "".join(format_exception(exc, value, tb, limit, chain))
        (sys.stderr if file is None else file).write(text)

    def print_exc(limit: Any = None, file: Any = None, chain: bool = True) -> None:
        """As `traceback.print_exc`."""
        print_exception(sys.exc_info()[1], None, None, limit, file, chain)

    def own(tb: Any, limit: Any) -> list[traceback.FrameSummary]:
        return [f for f in traceback.extract_tb(tb, limit) if keep(f)]

    def extract_tb(tb: Any, limit: Any = None) -> list[FrameSummary]:
        """As `traceback.extract_tb`."""
        return [FrameSummary(f.filename, f.lineno, f.name, line=f.line) for f in own(tb, limit)]

    def format_list(frames: Any) -> list[str]:
        """As `traceback.format_list`."""
        made = [f if type(f) is FrameSummary else FrameSummary(f[0], f[1], f[2], line=f[3]) for f in frames]
        lines = [f'  File "{f.filename}", line {f.lineno}, in {f.name}\n' for f in made]
        return [a + (f"    {f.line.strip()}\n" if f.line else "") for a, f in zip(lines, made, strict=True)]

    def format_tb(tb: Any, limit: Any = None) -> list[str]:
        """As `traceback.format_tb`."""
        return list(traceback.StackSummary.from_list(own(tb, limit)).format())

    def print_tb(tb: Any, limit: Any = None, file: Any = None) -> None:
        """As `traceback.print_tb`."""
        (sys.stderr if file is None else file).write("".join(format_tb(tb, limit)))

    def lines(f: Any, limit: Any) -> list[FrameSummary]:
        found = []
        for frame in reversed(chain(f)):
            place: Any = frame.f_code
            line = traceback.FrameSummary(place.co_filename, frame.f_lineno, place.co_name).line
            found.append(FrameSummary(place.co_filename, frame.f_lineno, place.co_name, line=line))
        if limit is None:
            return found
        limit = operator.index(limit)
        return found[-limit:] if limit > 0 else found[:-limit] if limit < 0 else []

    def walk_tb(tb: Any) -> Any:
        """As `traceback.walk_tb`, the program's own frames only."""
        while tb is not None:
            if type(tb) is not types.TracebackType:
                raise TypeError(f"a traceback was expected, not {type(tb).__name__}")
            if is_shown(tb.tb_frame):
                yield of_traceback(tb), tb.tb_lineno
            tb = tb.tb_next

    def walk_stack(f: Any) -> Any:
        """As `traceback.walk_stack`, the program's own frames only."""
        return iter([(frame, frame.f_lineno) for frame in chain(f)])

    def extract_stack(f: Any = None, limit: Any = None) -> list[FrameSummary]:
        """As `traceback.extract_stack`, the program's own lines only."""
        return lines(f, limit)

    def format_stack(f: Any = None, limit: Any = None) -> list[str]:
        """As `traceback.format_stack`, the program's own lines only."""
        return format_list(lines(f, limit))

    def print_stack(f: Any = None, limit: Any = None, file: Any = None) -> None:
        """As `traceback.print_stack`, the program's own lines only."""
        (sys.stderr if file is None else file).write("".join(format_list(lines(f, limit))))

    class TracebackException:
        """As `traceback.TracebackException`, the program's own lines only."""

        __slots__ = ("_links", "_report", "exc_type", "exc_type_str", "stack")

        def __init__(
            self, exc_type: Any, exc_value: Any, exc_traceback: Any = None, *, limit: Any = None, **more: Any
        ) -> None:
            if not isinstance(exc_value, BaseException):
                raise TypeError(f"an exception was expected, not {type(exc_value).__name__}")
            self._report = trimmed(exc_value, limit)
            self.exc_type = type(exc_value)
            self.exc_type_str = type(exc_value).__name__
            self.stack = [FrameSummary(f.filename, f.lineno, f.name, line=f.line) for f in self._report.stack]
            # As the interpreter has them, not as a class of the program's says.
            self._links = [vars(BaseException)[name].__get__(exc_value) for name in ("__cause__", "__context__")]

        @property
        def __cause__(self) -> Any:
            return None if self._links[0] is None else type(self).from_exception(self._links[0])

        @property
        def __context__(self) -> Any:
            return None if self._links[1] is None else type(self).from_exception(self._links[1])

        @property
        def __suppress_context__(self) -> bool:
            return bool(self._report.__suppress_context__)

        @classmethod
        def from_exception(cls, exc: Any, *args: Any, **kwargs: Any) -> Any:
            """As `traceback.TracebackException.from_exception`."""
            return cls(type(exc), exc, None, *args, **kwargs)

        def format(self, *, chain: bool = True, **more: Any) -> Any:
            """As `traceback.TracebackException.format`."""
            return iter(list(self._report.format(chain=chain)))

        def format_exception_only(self, **more: Any) -> Any:
            """As `traceback.TracebackException.format_exception_only`."""
            return iter(list(self._report.format_exception_only()))

        def print(self, *, file: Any = None, chain: bool = True) -> None:
            """As `traceback.TracebackException.print`."""
            (sys.stderr if file is None else file).write("".join(self.format(chain=chain)))

        def __str__(self) -> str:
            return str(self._report)

    def clear_frames(tb: Any) -> None:
        """As `traceback.clear_frames`, the program's own frames only."""
        while tb is not None:
            if is_guest_frame(tb.tb_frame):
                try:
                    tb.tb_frame.clear()
                except RuntimeError:
                    pass  # it still runs
            tb = tb.tb_next

    return {
        "walk_tb": walk_tb, "walk_stack": walk_stack, "clear_frames": clear_frames, "extract_stack": extract_stack, "format_stack": format_stack, "print_stack": print_stack,
        "format_exception": format_exception, "format_exc": format_exc, "print_exception": print_exception,
        "print_exc": print_exc, "extract_tb": extract_tb, "format_tb": format_tb, "print_tb": print_tb,
        "format_exception_only": traceback.format_exception_only, "format_list": format_list,
        "FrameSummary": FrameSummary, "TracebackException": TracebackException,
    }  # fmt: skip


def _linecache(language: RestrictedLanguage) -> Exports:
    from .paths import open_file

    def getlines(filename: Any, module_globals: Any = None) -> list[str]:
        """As `linecache.getlines`, in the places that the builtin opens."""
        try:
            with open_file(filename, "r", encoding="utf-8") as file:
                lines = file.readlines()
        except (OSError, UnicodeDecodeError):
            return []
        return [*lines[:-1], lines[-1].rstrip("\n") + "\n"] if lines else []

    def getline(filename: Any, lineno: int, module_globals: Any = None) -> str:
        """As `linecache.getline`."""
        lines = getlines(filename)
        return lines[lineno - 1] if 1 <= lineno <= len(lines) else ""

    def nothing(filename: Any = None) -> None:
        """Nothing is kept."""

    return {"getline": getline, "getlines": getlines, "checkcache": nothing, "clearcache": nothing}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "traceback": _traceback,
    "linecache": _linecache,
}
