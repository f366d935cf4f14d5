"""``doctest``, as far as programs use it on themselves: ``testmod``, ``testfile`` and ``run_docstring_examples``.

The examples run in the program's language. The library's parser and checker work on text alone.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    MAIN,
    class_dict,
    exact_name,
    is_class,
    is_facade,
    is_guest_class,
    is_guest_function,
)

from .paths import open_file, text_path

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]
_LINE = "*" * 70
_HEAD = "Traceback (most recent call last):"
_LATE = sys.version_info >= (3, 13)
"""It counts examples that are skipped, and knows one from several."""
_CACHED: Any = type(functools.lru_cache(len))


def _plain(item: Any) -> Any:
    """The function behind a method, a property or a cache."""
    kind = type(item)
    if kind is staticmethod or kind is classmethod:
        item = item.__func__
    elif kind is property:
        item = item.fget
    return item.__wrapped__ if type(item) is _CACHED else item


def _summary(counts: list[tuple[str, int, int, int]], verbose: bool) -> str:
    """What `doctest` of this Python writes at the end, of (name, failed, tried, skipped)."""
    failed, tried, skipped = sum(c[1] for c in counts), sum(c[2] for c in counts), sum(c[3] for c in counts)

    def some(number: int, what: str) -> str:
        return f"{number} {what}{'' if _LATE and number == 1 else 's'}"

    lines = []
    if verbose:
        if idle := sorted(name for name, _, count, _ in counts if not count):
            lines += [f"{some(len(idle), 'item')} had no tests:", *(f"    {name}" for name in idle)]
        if passed := sorted((name, count) for name, wrong, count, _ in counts if count and not wrong):
            lines.append(f"{some(len(passed), 'item')} passed all tests:")
            lines += [f" {count:3d} test{'' if _LATE and count == 1 else 's'} in {name}" for name, count in passed]
    if wrongs := sorted(c for c in counts if c[1]):
        lines += [_LINE, f"{some(len(wrongs), 'item')} had failures:"]
        lines += [f" {wrong:3d} of {count:3d} in {name}" for name, wrong, count, _ in wrongs]
    if verbose:
        lines.append(f"{some(tried, 'test')} in {some(len(counts), 'item')}.")
        lines.append(f"{tried - failed} passed" + (f" and {failed} failed." if failed or not _LATE else "."))
    if failed:
        left_out = f" and {some(skipped, 'skipped test')}" if _LATE and skipped else ""
        lines.append(f"***Test Failed*** {some(failed, 'failure')}{left_out}.")
    elif verbose:
        lines.append("Test passed.")
    return "".join(line + "\n" for line in lines)


def _doctest(language: RestrictedLanguage) -> Exports:
    import doctest

    checker, parser = doctest.OutputChecker(), doctest.DocTestParser()

    def found(
        name: str, item: Any, seen: set[int], mine: Callable[[Any], bool]
    ) -> Iterator[tuple[str, str, int | None]]:
        """Names, documentation and first lines of a thing of the program and of what is in it, each once."""
        if id(item) in seen:
            return
        seen.add(id(item))
        text = language.guards.readable(item, "__doc__", None)
        code = None if is_class(item) else getattr(_plain(item), "__code__", None)
        yield name, str.__str__(text) if isinstance(text, str) else "", code and code.co_firstlineno
        if is_class(item):
            for key, value in dict(class_dict(item)).items():
                if type(key) is str and mine(_plain(value)):
                    method = type(value) in (staticmethod, classmethod)
                    yield from found(f"{name}.{key}", value.__func__ if method else value, seen, mine)

    def belongs(space: dict[str, Any]) -> Callable[[Any], bool]:
        def mine(item: Any) -> bool:
            if is_class(item):
                return is_guest_class(item) and class_dict(item).get("__module__") == space.get("__name__")
            return is_guest_function(item) and item.__globals__ is space

        return mine

    def run(example: Any, place: str, space: dict[str, Any], flags: int) -> tuple[bool, str, bool]:
        """Whether the example at `place` gave what it should, what it gave, and whether that is a traceback."""
        import io
        import linecache

        out = io.StringIO()
        streams = language.streams
        streams.push("stdout", out)
        raised = whole = ""
        file = f"<doctest {place}>"
        linecache.cache[file] = len(example.source), None, example.source.splitlines(True), file
        try:
            language.run(language.compile_one(example.source, file, "single"), space)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            tracebacks = language.gate.build("traceback")
            raised = "".join(tracebacks.format_exception_only(type(error), error))
            whole = "".join(tracebacks.format_exception(error))
            if _HEAD not in whole:  # of an example that is no Python, all frames are the library's
                whole = f"{_HEAD}\n{whole}"
        finally:
            linecache.cache.pop(file, None)
            streams.pop("stdout")
        got = out.getvalue()
        if got and not got.endswith("\n"):
            got += "\n"  # an example cannot say that there is none
        if raised:
            if example.exc_msg is None:
                return False, got + whole, True
            if flags & doctest.IGNORE_EXCEPTION_DETAIL:
                want, seen = (text.partition(":")[0].rpartition(".")[2] for text in (example.exc_msg, raised))
                return want.strip() == seen.strip(), got + raised, True
            return checker.check_output(example.exc_msg, raised, flags), got + raised, True
        if example.exc_msg is not None:
            return False, got, False
        return checker.check_output(example.want, got, flags), got, False

    def indented(text: str) -> str:
        return "".join("    " + part for part in text.splitlines(True))

    def examine(
        name: str, text: str, first: int | None, globs: dict[str, Any], flags: int, verbose: bool, file: str = MAIN
    ) -> tuple[int, int, int]:
        space = language.own_space({**globs, "__name__": MAIN})
        failed = tried = skipped = 0
        write = language.streams.shown("stdout").write
        for number, example in enumerate(parser.get_examples(text, name)):
            now = flags
            for flag, on in example.options.items():
                now = now | flag if on else now & ~flag
            if now & doctest.SKIP:
                skipped += 1
                tried += _LATE
                continue
            tried += 1
            if verbose:
                expecting = f":\n{indented(example.want)}" if example.want else " nothing\n"
                write(f"Trying:\n{indented(example.source)}Expecting{expecting}")
            right, got, raised = run(example, f"{name}[{number}]", space, now)
            if right:
                if verbose:
                    write("ok\n")
                continue
            failed += 1
            place = "?" if first is None else first + example.lineno + 1
            said = (
                f"Exception raised:\n{indented(got)}"
                if raised and example.exc_msg is None
                else checker.output_difference(example, got, now)
            )
            write(f'{_LINE}\nFile "{file}", line {place}, in {name}\nFailed example:\n{indented(example.source)}{said}')
        return failed, tried, skipped

    def testmod(m: Any = None, name: Any = None, globs: Any = None, verbose: Any = None, report: bool = True,
                optionflags: int = 0, extraglobs: Any = None, raise_on_error: bool = False, exclude_empty: bool = False) -> Any:  # fmt: skip
        """As `doctest.testmod`, of the program itself or of a module of its own."""
        own = None if m is None or not is_facade(type(m)) else language.gate.own.behind(m)
        whole = language.main if own is None else own
        title = str(name or (MAIN if own is None else own["__name__"]))
        space = {k: v for k, v in whole.items() if k != "__builtins__" and " " not in k}
        mine = belongs(whole)
        seen: set[int] = set()
        doc = space.get("__doc__")
        tests: list[tuple[str, str, int | None]] = [(title, doc if type(doc) is str else "", 0)]
        for key, item in list(space.items()):
            if mine(_plain(item)):
                tests += found(f"{title}.{key}", item, seen, mine)
        if exclude_empty:
            tests = [test for test in tests if test[1]]
        values = dict(space if globs is None else globs) | dict(extraglobs or {})
        counts = []
        for called, text, first in sorted(tests, key=lambda test: test[:2]):
            counts.append((called, *examine(called, text, first, values, int(optionflags), bool(verbose))))
        return result(counts, report, verbose)

    def result(counts: list[tuple[str, int, int, int]], report: Any, verbose: Any) -> Any:
        if report:
            language.streams.shown("stdout").write(_summary(counts, bool(verbose)))
        found_out: Any = doctest.TestResults(sum(c[1] for c in counts), sum(c[2] for c in counts))
        if _LATE:
            found_out.skipped = sum(c[3] for c in counts)
        return found_out

    def testfile(filename: Any, module_relative: bool = True, name: Any = None, package: Any = None, globs: Any = None, verbose: Any = None,
                 report: bool = True, optionflags: int = 0, extraglobs: Any = None, raise_on_error: bool = False, parser: Any = None,
                 encoding: Any = None) -> Any:  # fmt: skip
        """As `doctest.testfile`, relative to the working directory."""
        path = text_path(filename)
        if module_relative:
            if os.path.isabs(path):
                raise ValueError("Module-relative files may not have absolute paths")
            path = os.path.join(os.curdir, path)
        with open_file(path, encoding=encoding) as file:
            text = str(file.read())
        title = os.path.basename(path) if name is None else exact_name(name)
        values = dict(globs or {}) | dict(extraglobs or {})
        return result(
            [(title, *examine(title, text, 0, values, int(optionflags), bool(verbose), path))], report, verbose
        )

    def run_docstring_examples(f: Any, globs: Any, verbose: bool = False, name: str = "NoName", compileflags: Any = None,
                               optionflags: int = 0) -> None:  # fmt: skip
        """As `doctest.run_docstring_examples`."""
        space = {k: v for k, v in dict(globs).items() if k != "__builtins__" and type(k) is str}
        for title, text, first in found(name, f, set(), lambda item: is_guest_function(item) or is_class(item)):
            examine(title, text, first, space, int(optionflags), bool(verbose))

    flags = """ELLIPSIS NORMALIZE_WHITESPACE IGNORE_EXCEPTION_DETAIL DONT_ACCEPT_TRUE_FOR_1 DONT_ACCEPT_BLANKLINE SKIP REPORT_UDIFF
        REPORT_NDIFF REPORT_CDIFF REPORT_ONLY_FIRST_FAILURE FAIL_FAST"""
    return {n: getattr(doctest, n) for n in flags.split()} | {
        "testmod": testmod,
        "testfile": testfile,
        "run_docstring_examples": run_docstring_examples,
        "TestResults": doctest.TestResults,
    }


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"doctest": _doctest}
