"""Ordinary programs run as they do in plain CPython: same output, same value, same exception."""

import ast
import asyncio
import contextlib
import gc
import io
import os
import sys
import types
import warnings
from pathlib import Path

import pytest

from safeexec_backends.local.language import RestrictedLanguage

HERE = Path(__file__).parent / "ordinary"
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def snippets() -> list[tuple[str, str]]:
    found = []
    for file in sorted(HERE.glob("*.txt")):
        if file.stem == "python312" and sys.version_info < (3, 12):
            continue
        for part in file.read_text().split("#: ")[1:]:
            name, _, source = part.partition("\n")
            found.append((f"{file.stem}: {name}", source))
    return found


def outcome(codes, namespace):
    out, err = io.StringIO(), io.StringIO()
    value = error = None
    recursion = sys.getrecursionlimit()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for code in codes:
                value = eval(code, namespace)
                if code.co_flags & 0x80:
                    value = asyncio.run(value)
            value = repr(value)
        except BaseException as caught:
            error = f"{type(caught).__name__}: {caught}"
    sys.setrecursionlimit(recursion)
    return out.getvalue(), value, error


def plainly(source):
    module = types.ModuleType("__main__")
    tree = compile(source, "<step 1>", "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    codes = [compile(tree, "<step 1>", "exec", FLAGS, dont_inherit=True)]
    if last is not None:
        codes.append(compile(ast.Expression(last.value), "<step 1>", "eval", FLAGS, dont_inherit=True))
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        return outcome(codes, module.__dict__)
    finally:
        sys.modules["__main__"] = before


def restrictedly(source):
    language = RestrictedLanguage()
    namespace = language.namespace()
    return outcome(language.compile(source, "<step 1>"), namespace)


@pytest.mark.parametrize("source", [pytest.param(s, id=n) for n, s in snippets()])
def test_runs_unchanged(source, tmp_path, monkeypatch):
    for name in ("plain", "restricted"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "restricted")  # first: what C code imports once, it must be able to import here
    found = restrictedly(source)
    gc.collect()
    os.chdir(tmp_path / "plain")
    expected = plainly(source)
    assert found == expected
    assert expected[2] is None, "the snippet itself fails"


def test_the_corpus_is_broad():
    assert len(snippets()) >= 150
