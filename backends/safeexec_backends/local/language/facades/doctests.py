"""``doctest``, as far as programs use it on themselves: ``testmod`` and ``run_docstring_examples``.

The examples run in the program's language. The library's parser and checker work on text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import MAIN, class_dict, is_class, is_guest_class, is_guest_function

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _doctest(language: RestrictedLanguage) -> Exports:
    import doctest

    checker, parser = doctest.OutputChecker(), doctest.DocTestParser()
    line = "*" * 70

    def found(name: str, item: Any) -> Iterator[tuple[str, str]]:
        """Names and documentation of a thing of the program and of what is in it."""
        text = language.guards.readable(item, "__doc__", None)
        if isinstance(text, str):
            yield name, str.__str__(text)
        if is_class(item):
            for key, value in dict(class_dict(item)).items():
                inner: Any = value.__func__ if type(value) in (staticmethod, classmethod) else value
                inner = inner.fget if type(inner) is property else inner
                if is_guest_function(inner) or (is_class(inner) and is_guest_class(inner)):
                    yield from found(f"{name}.{key}", inner)

    def run(example: Any, space: dict[str, Any], flags: int) -> tuple[bool, str]:
        """Whether the example gave what it should, and what it gave."""
        import io

        out = io.StringIO()
        streams = language.streams
        streams.push("stdout", out)
        raised = ""
        try:
            exec(language.compile_one(example.source, "<doctest>", "single"), space)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raised = "".join(language.gate.build("traceback").format_exception_only(type(error), error))
        finally:
            streams.pop("stdout")
        got = out.getvalue()
        for flag, on in example.options.items():
            flags = flags | flag if on else flags & ~flag
        if raised:
            if example.exc_msg is None:
                return False, got + "Traceback (most recent call last):\n    ...\n" + raised
            return checker.check_output(example.exc_msg, raised, flags), got + raised
        if example.exc_msg is not None:
            return False, got
        return checker.check_output(example.want, got, flags), got

    def examine(name: str, text: str, globs: dict[str, Any], flags: int, verbose: bool) -> tuple[int, int]:
        space = {**globs, "__builtins__": language.fresh_builtins(), "__name__": MAIN}
        failed = tried = 0
        write = language.streams.shown("stdout").write
        for example in parser.get_examples(text, name):
            tried += 1
            right, got = run(example, space, flags)
            if right and not verbose:
                continue
            failed += not right
            source = "".join("    " + part for part in example.source.splitlines(True))
            want = "".join("    " + part for part in example.want.splitlines(True))
            if right:
                write(f"Trying:\n{source}Expecting{':' if want else ' nothing'}\n{want}ok\n")
                continue
            shown = "".join("    " + part for part in got.splitlines(True))
            write(
                f'{line}\nFile "__main__", line {example.lineno + 1}, in {name}\nFailed example:\n{source}'
                + (f"Expected:\n{want}" if want else "Expected nothing\n")
                + (f"Got:\n{shown}" if shown else "Got nothing\n")
            )
        return failed, tried

    def testmod(m: Any = None, name: Any = None, globs: Any = None, verbose: Any = None, report: bool = True,
                optionflags: int = 0, extraglobs: Any = None, raise_on_error: bool = False, exclude_empty: bool = False) -> Any:  # fmt: skip
        """As `doctest.testmod`, of the program itself."""
        space = {k: v for k, v in language.main.items() if k != "__builtins__" and " " not in k}
        space |= dict(globs or {}) | dict(extraglobs or {})
        tests = [("__main__", space["__doc__"])] if isinstance(space.get("__doc__"), str) else []
        for key, item in list(space.items()):
            if is_guest_function(item) or (is_class(item) and is_guest_class(item)):
                tests += list(found(f"__main__.{key}", item))
        failed = tried = 0
        for title, text in sorted(tests):
            wrong, count = examine(title, text, space, int(optionflags), bool(verbose))
            failed, tried = failed + wrong, tried + count
        if failed and report:
            language.streams.shown("stdout").write(f"{line}\n***Test Failed*** {failed} failures.\n")
        return doctest.TestResults(failed, tried)

    def run_docstring_examples(f: Any, globs: Any, verbose: bool = False, name: str = "NoName", compileflags: Any = None,
                               optionflags: int = 0) -> None:  # fmt: skip
        """As `doctest.run_docstring_examples`."""
        space = {k: v for k, v in dict(globs).items() if k != "__builtins__" and type(k) is str}
        for title, text in found(name, f):
            examine(title, text, space, int(optionflags), bool(verbose))

    flags = """ELLIPSIS NORMALIZE_WHITESPACE IGNORE_EXCEPTION_DETAIL DONT_ACCEPT_TRUE_FOR_1 DONT_ACCEPT_BLANKLINE SKIP REPORT_UDIFF
        REPORT_NDIFF REPORT_ONLY_FIRST_FAILURE FAIL_FAST"""
    return {n: getattr(doctest, n) for n in flags.split()} | {
        "testmod": testmod,
        "run_docstring_examples": run_docstring_examples,
        "TestResults": doctest.TestResults,
    }


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"doctest": _doctest}
