"""Small things of ordinary programs that once came out differently here than in CPython."""

import doctest
import linecache
import sys
import types

import pytest

from safeexec_backends.local.language import RestrictedLanguage


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    language = RestrictedLanguage(None, environ={})
    namespace = language.namespace()

    def step(source):
        value = None
        for code in language.compile(source, "<step 1>"):
            value = eval(code, namespace)
        return value

    return step


TEXTS = """
from __future__ import annotations
import dataclasses as dc
import typing as t
from dataclasses import dataclass, KW_ONLY, InitVar, fields
from typing import ClassVar, Optional
@dataclass
class V:
    a: int
    n: ClassVar[int] = 0
    m: t.ClassVar = []
    i: InitVar[int] = 5
    j: dc.InitVar[int] = 6
    _: KW_ONLY
    k: Optional[str] = None
    def __post_init__(self, i, j): self.a += i + j
def f(x: t.List[int], *y: dc.Field) -> t.Dict[str, dc.Field]: pass
"""


def test_annotations_that_are_texts_are_the_programs_own(run):
    run(TEXTS)
    assert run("f.__annotations__") == {"x": "t.List[int]", "y": "dc.Field", "return": "t.Dict[str, dc.Field]"}
    assert run("V.__annotations__['m'], V.__annotations__['j']") == ("t.ClassVar", "dc.InitVar[int]")


def test_dataclass_takes_its_markers_from_texts(run):
    run(TEXTS)
    assert run("repr(V(1)), [f.name for f in fields(V)], V(1, 0, 0, k='x').k") == ("V(a=12, k=None)", ["a", "k"], "x")
    with pytest.raises(TypeError, match="from 2 to 4 positional arguments but 5 were given"):
        run("V(1, 2, 3, 'x')")


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import division; x = 1; from __future__ import annotations",
        "'doc'\n'two'\nfrom __future__ import annotations",
        "f'doc'\nfrom __future__ import annotations",
        "x = 1\nfrom __future__ import annotations",
        "if True:\n    from __future__ import annotations",
        "from __future__ import division",
        "'from __future__ import annotations'",
    ],
)
def test_annotations_that_would_run_are_guarded(run, source):
    """Nothing but what the compiler itself takes for a future statement leaves them as they are."""
    attack = (
        source + "\ndef f(x: (lambda: 0).__globals__): pass\nfor a in f.__annotations__.values(): a['__builtins__']"
    )
    with pytest.raises((SyntaxError, AttributeError)) as info:
        run(attack)
    assert isinstance(info.value, SyntaxError) or "__globals__" in str(info.value)


def test_annotations_of_other_targets_do_not_run(run):
    source = "class C: pass\nd = {}\nC.x: 1 / 0 = 3\nd['a']: 1 / 0 = 4\n(e): 1 / 0 = 5\nC.x, d, e"
    assert run("from __future__ import annotations\n" + source) == (3, {"a": 4}, 5)
    with pytest.raises(ZeroDivisionError):
        run(source)


@pytest.mark.parametrize(
    "what", ["(5).x = 1", "(1, 2).x = 1", "object().x = 1", "setattr([], 'x', 1)", "del ''.x", "None.x = 1"]
)
def test_builtin_objects_that_take_no_attributes(run, what):
    """CPython says so by an AttributeError, which programs catch."""
    assert run(f"try:\n    {what}\nexcept AttributeError:\n    said = True\nsaid") is True


def test_builtin_classes_that_take_no_attributes(run):
    assert run("try:\n    int.x = 1\nexcept TypeError:\n    said = True\nsaid") is True


@pytest.mark.parametrize(
    "what",
    [
        "open('')",
        "os.listdir('')",
        "os.remove('')",
        "os.mkdir('')",
        "os.stat('')",
        "shutil.rmtree('')",
        "zipfile.ZipFile('')",
    ],
)
def test_the_empty_path_names_nothing(run, what):
    with pytest.raises(FileNotFoundError):
        run(f"import os, shutil, zipfile\n{what}")


def test_the_empty_path_is_asked_about(run):
    assert run("import os\nos.path.exists(''), os.path.isdir(''), list(os.walk('')), os.access('', os.R_OK)") == (
        False,
        False,
        [],
        False,
    )


def test_timeit_runs_set_up_and_statement_in_one_namespace(run):
    run("def f(x): seen.append(x)\nseen = []\nimport timeit")
    run("timeit.timeit('f(a); import_check = a', setup='from __main__ import f; a = 5', number=2)")
    run("timeit.Timer('z.f(7)', 'import __main__ as z').repeat(2, 1)")
    run("timeit.timeit('f(1)', globals=globals(), number=1)")
    assert run("seen, timeit.Timer('1').autorange()[0] > 0, 'import_check' in globals()") == (
        [5, 5, 7, 7, 1],
        True,
        False,
    )


DOCUMENTED = '''"""Module.

>>> 1 + 1
2
"""
from functools import lru_cache
def right(x):
    """
    >>> right(2)
    4
    >>> print("no newline", end="")
    no newline
    >>> wrong(1) # doctest: +SKIP
    """
    return 2 * x
@lru_cache
def cached(n):
    """
    >>> cached(3)
    3
    """
    return n
class C:
    """
    >>> C().p
    2
    """
    @property
    def p(self):
        """
        >>> C().p
        1
        """
        return 1
    @staticmethod
    def s():
        """
        >>> C.s()
        's'
        """
        return "s"
    def bare(self): pass
Same = C
def fails():
    """
    >>> fails()
    Traceback (most recent call last):
        ...
    ValueError: no
    >>> 1 + 1
    3
    """
    raise ValueError("no")
'''


@pytest.mark.parametrize("verbose", [False, True])
def test_doctest_says_what_cpythons_says(run, capsys, verbose):
    ours = run(f"{DOCUMENTED}\nimport doctest\ntuple(doctest.testmod(verbose={verbose}))")
    shown = capsys.readouterr().out
    module = types.ModuleType("__main__")
    exec(compile(DOCUMENTED, "<none>", "exec", dont_inherit=True), vars(module))
    linecache.clearcache()
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        theirs = doctest.testmod(module, verbose=verbose)
    finally:
        sys.modules["__main__"] = before
    expected = capsys.readouterr().out
    assert ours == tuple(theirs)

    def lines(text):
        return [line for line in text.splitlines() if not line.startswith('File "')]

    assert lines(shown) == lines(expected)
    ours_at, theirs_at = (
        [line.split(", ", 1)[1] for line in t.splitlines() if line.startswith("File ")] for t in (shown, expected)
    )
    assert ours_at == theirs_at
