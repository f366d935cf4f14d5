"""Small things of ordinary programs that once came out differently here than in CPython."""

import doctest
import linecache
import shutil
import sys
import types

import pytest

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


def test_files_as_programs_write_them(run):
    source = """
import os, shutil, tempfile
with open("a", "wb+") as f:
    f.write(b"abc"); f.flush(); os.fsync(f.fileno()); os.fsync(f)
    f.seek(-1, os.SEEK_END); last = f.read()
os.chmod("a", 0o640)
open("b", "w").close()
shutil.copymode("a", "b"); shutil.copystat("a", "b")
(last, oct(os.stat("b").st_mode)[-3:], os.SEEK_SET, os.SEEK_CUR, len(os.sched_getaffinity(0)), os.uname().sysname, tempfile.gettempprefix())
"""
    assert run(source) == (b"c", "640", 0, 1, 1, "Linux", "tmp")
    with pytest.raises(PermissionError):
        run("shutil.copymode('/etc/passwd', 'b')")
    with pytest.raises(TypeError):
        run("class F:\n    def fileno(self): return 'x'\nos.fsync(F())")


def test_traceback_exception(run):
    source = """
import traceback
def inner(): return {}["k"]
try:
    try: inner()
    except KeyError as e: raise ValueError("outer") from e
except ValueError as e:
    t = traceback.TracebackException.from_exception(e)
(list(t.format_exception_only()), "".join(t.format()), [f.name for f in t.stack], t.exc_type.__name__, str(t))
"""
    only, text, stack, kind, said = run(source)
    assert only == ["ValueError: outer\n"] and set(stack) <= {"<module>"} and (kind, said) == ("ValueError", "outer")
    assert "KeyError: 'k'" in text and "direct cause" in text and "safeexec" not in text and "/lib/" not in text
    with pytest.raises(AttributeError):
        run("t._report.stack")
    with pytest.raises(TypeError):
        run("traceback.TracebackException(1, 2, 3)")


FAILURES = """
open("here", "w").close(); os.makedirs("full/of/it"); open("full/of/it/x", "w").close()
""".strip()


@pytest.mark.parametrize(
    "what",
    [
        "os.rmdir('full')", "os.remove('none')", "os.mkdir('full')", "os.listdir('none/x')", "os.rename('none', 'other')", "os.stat('none')",
        "os.makedirs('here/sub')", "os.makedirs('full')", "os.path.getsize('none')", "shutil.copy('none', 'full')", "shutil.rmtree('none')",
        "shutil.copytree('none', 'b')", "shutil.move('none', 'b')", "pathlib.Path('none').unlink()", "pathlib.Path('full').rmdir()",
        "pathlib.Path('full').mkdir()", "pathlib.Path('none').rename('x')", "pathlib.Path('none').stat()", "pathlib.Path('none').read_text()",
        "open('none/x')", "zipfile.ZipFile('none.zip')", "zipfile.ZipFile('z.zip', 'w').write('none')", "os.chdir('none')", "gzip.open('none')",
        "pathlib.Path('none').iterdir()", "os.replace('none', 'full/of')", "os.scandir('none')", "tarfile.open('none')",
    ],
)  # fmt: skip
def test_errors_name_files_as_the_program_did(run, what):
    """Not by where they really lie, which CPython's own do not say either."""
    modules = "import os, shutil, pathlib, zipfile, gzip, tarfile\n"
    source = f"{modules}{FAILURES}\ntry:\n    list({what})\nexcept OSError as e:\n    said = type(e).__name__, str(e), e.filename, e.filename2\nsaid"
    ours = run(source)
    space = {}
    shutil.rmtree("full")
    exec(source, space)
    assert tuple(ours) == space["said"]


def test_archives_and_moved_files_say_where_they_are(run):
    source = """
import zipfile, shutil, os
os.makedirs("d/e"); open("d/f", "w").close()
with zipfile.ZipFile("z.zip", "w") as z: z.write("d/f"); z.writestr("g/", "")
with zipfile.ZipFile("z.zip") as z:
    seen = [z.filename, z.extract("d/f", "out"), z.extract("d/f", "./out/../o2"), z.extract("g/", "out"), z.extract("d/f") == os.path.abspath("d/f")]
seen += [shutil.copy("d/f", "d/e"), shutil.copy("d/f", "h"), shutil.move("h", "d/e"), shutil.move("d/f", "i")]
try:
    open("h", "w").close(); shutil.move("h", "d/e")
except shutil.Error as e:
    seen.append(str(e))
seen
"""
    ours = run(source)
    assert "Destination path" in ours[-1]
    space = {}
    for name in ("d", "out", "o2"):
        shutil.rmtree(name)
    exec(source, space)
    assert ours == space["seen"]
