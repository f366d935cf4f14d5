"""What ordinary programs did otherwise than in plain CPython, or were refused without a word of what to do instead."""

import inspect
import sys

import pytest

from safeexec.guest import Refused
from safeexec_backends.local.language.facades import builders
from safeexec_backends.local.language.facades.hints import HINTS, NAMES


def test_what_a_dataclass_says_of_its_fields(run):
    source = """
from dataclasses import dataclass, field
import inspect
@dataclass(order=True)
class D:
    name: str
    tags: list[str] = field(default_factory=list)
    n: "int" = 2
D.__init__.__annotations__, str(inspect.signature(D)), D.__doc__
"""
    annotations, signature, doc = run(source)
    assert annotations == {"name": str, "tags": list[str], "n": "int", "return": None}
    assert signature == "(name: str, tags: list[str] = <factory>, n: 'int' = 2) -> None"
    assert doc == "D(name: str, tags: list[str] = <factory>, n: 'int' = 2)"


def test_that_of_a_dataclass_of_a_library(run):
    run("import dataclasses\n@dataclasses.dataclass\nclass D: x: int")  # which puts the guarded exec in

    import dataclasses

    @dataclasses.dataclass
    class Ours:
        x: int

    assert inspect.get_annotations(Ours.__init__) == {"x": int, "return": None}


def test_exec_leaves_what_the_text_defines(run):
    source = "space = {}\nexec('a = 1\\nclass K: pass\\ndef f(): return K()', space)\nsorted(space)"
    assert run(source) == ["K", "__builtins__", "a", "f"]
    assert run("K = space['K']\nK.added = 5\nK.added, space['f']().added, K.__module__") == (5, 5, "__main__")
    assert run("other = {'x': 2}\neval('x + 1', other), sorted(other)") == (3, ["__builtins__", "x"])
    assert run("exec('class L: pass', space)\nspace['L'].y = 1\nsorted(space)[1:3]") == ["L", "__builtins__"]
    assert run("named = {'__name__': 'mine'}\nexec('z = __name__', named)\nnamed['z']") == "mine"


def test_a_class_made_in_the_programs_own_builtins_is_the_programs(run):
    source = """
import builtins
table = {name: getattr(builtins, name) for name in dir(builtins) if name[:2] != "__"}
space = {}
exec("pass", space)
del space["__builtins__"]["__name__"]
exec("class K: pass", space)
space["K"].x = 1
space["K"].x
"""
    assert run(source) == 1


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("list['A']", "list[A]"),
        ("dict[str, list['A']]", "dict[str, list[A]]"),
        ("Optional[list['A']]", "Optional[list[A]]"),
        ("list[Optional['A']]", "list[Optional[A]]"),
        ("'list[\"A\"]'", "list[A]"),
        ("tuple[int, 'A'] | None", "tuple[int, A] | None"),
        ("Callable[['A'], int]", "Callable[[A], int]"),
        ("Literal['A']", "Literal['A']"),
        ("list[Annotated['A', 1]]", "list[A]"),
        ("Annotated[Optional[Annotated[int, 1]], 2]", "Optional[int]"),
        ("Annotated[list['A'], 2]", "list[A]"),
    ],
)
def test_type_hints_are_evaluated_inside_others(run, annotation, expected):
    source = f"from typing import *\nclass A:\n    x: {annotation}\nget_type_hints(A) == {{'x': {expected}}}"
    assert run(source) is True
    assert run(f"get_type_hints(A, include_extras=True)['x'] == {expected}") is ("Annotated" not in annotation)


def test_type_hints_of_a_typed_dict(run):
    source = """
from typing import *
class M(TypedDict, total=False):
    a: Required[int]
    b: NotRequired[list["M"]]
    c: Annotated[Required[str], 1]
get_type_hints(M) == {"a": int, "b": list[M], "c": str}, get_type_hints(M, include_extras=True)["a"] == Required[int]
"""
    assert run(source) == (True, True)


def test_what_calls_itself_an_alias_is_left_alone(run):
    """It would be asked for its arguments, and its class made anew with them."""
    source = """
import types, typing
class Mine(types.GenericAlias): pass
asked = []
class Liar:
    @property
    def __class__(self): return types.GenericAlias
    def __getattr__(self, name): asked.append(name); raise AttributeError(name)
mine, liar = Mine(list, ("int",)), Liar()
class A:
    x: mine
    y: liar
found = typing.get_type_hints(A)
found["x"] is mine, found["y"] is liar, asked
"""
    assert run(source) == (True, True, [])


def test_names_put_into_a_classs_body(run):
    source = """
from enum import Flag
def make(n): return lambda self: n
class T:
    for i in range(3): locals()[f"test_{i}"] = make(i)
    vars()["gone"] = 1
    del vars()["gone"]
    seen = "test_1" in locals(), vars().get("i"), locals().get("absent", 7)
class Bits(Flag):
    _ignore_ = "i"
    for i in range(3): vars()[f"B{i}"] = 1 << i
T().test_2(), T.seen, hasattr(T, "gone"), [(b.name, b.value) for b in Bits]
"""
    assert run(source) == (2, (True, 2, 7), False, [("B0", 1), ("B1", 2), ("B2", 4)])


@pytest.mark.parametrize("name", ["__class__", "__module__", "__slots__", "__builtins__", "__classcell__", "a b"])
def test_but_none_that_the_interpreter_goes_by(run, name):
    """`NamedTuple` sets what the body holds on the class that it makes, ``__class__`` as well."""
    source = f"""
from typing import NamedTuple
class Meta(type): pass
class N(NamedTuple):
    x: int
    try: locals()[{name!r}] = Meta
    except TypeError as error: refused = str(error)
(N.refused, type(N).__name__)
"""
    assert run(source) == (f"the name {name!r} belongs to the sandbox", "type")


def test_a_function_still_sees_a_copy(run):
    assert run("def f():\n    a = 1\n    locals()['a'] = 2\n    return a, sorted(locals())\nf()") == (1, ["a"])


def test_help_says_how_something_is_called(run, capsys):
    run('def f(a, *, b=2) -> int:\n    """Adds.\n\n    More.\n    """\nhelp(f)')
    assert (
        capsys.readouterr().out
        == "Help on function f in module __main__:\n\nf(a, *, b=2) -> int\n    Adds.\n\n    More.\n\n"
    )
    run(
        'class A:\n    """An A."""\n    def __init__(self, x): pass\n    def m(self, q): "Does."\n    @property\n    def p(self): "Is."'
    )
    run("help(A)")
    shown = capsys.readouterr().out
    assert shown == (
        "Help on class A in module __main__:\n\nclass A(x)\n    An A.\n\n    m(self, q)\n        Does.\n\n    p\n        Is.\n\n"
    )
    run("help(A(1))")
    assert capsys.readouterr().out == "Help on A object:\n\n" + shown
    run("import math\nhelp(math.gcd)\nhelp(math)\nhelp(3)")
    shown = capsys.readouterr().out
    assert "gcd(*integers)\n    Greatest Common Divisor" in shown
    assert "Help on module math:\n\nThis module provides" in shown


def test_help_reads_as_the_program_does(run, capsys):
    run(
        "import types\nclass A:\n    def _private(self): 'CANARY'\n    __doc__ = property(lambda self: 'no text')\nhelp(A)"
    )
    shown = capsys.readouterr().out
    assert "class A()" in shown
    assert "CANARY" not in shown


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import os\nos.system('ls')", "no program can be started"),
        ("from os import fork", "ThreadPoolExecutor"),
        ("import asyncio\nasyncio.open_connection('h', 1)", "no network"),
        ("import sys\nsys._getframe()", "inspect.currentframe"),
        ("import signal", "asyncio.timeout"),
        ("import pdb", "print what you want to see"),
        ("import tkinter", "no screen"),
        ("import cProfile", "timeit"),
        ("import pickle", "copy.deepcopy"),
        ("breakpoint()", "print what you want to see"),
        ("import types\ntypes.ModuleType('m')", "types.SimpleNamespace"),
    ],
)
def test_a_refusal_says_what_to_do_instead(run, source, word):
    with pytest.raises(Exception, match=word):
        run(source)


def test_builtins_by_its_other_name(run):
    with pytest.raises(Refused, match="import builtins instead"):
        run("__builtins__")


def test_hints_are_of_what_is_refused(run):
    """One that is not, nobody would ever read."""
    assert not HINTS.keys() & builders().keys()
    for name in NAMES:
        module, _, attribute = name.rpartition(".")
        assert not run(f"import {module}\nhasattr({module}, {attribute!r})"), name


def test_names_that_were_missing(run):
    source = "import ast\ntext = 'x = 1\\ny = x + 2\\n'\n[ast.get_source_segment(text, node) for node in ast.parse(text).body]"
    assert run(source) == ["x = 1", "y = x + 2"]
    assert run("import operator\nrepr(operator.methodcaller('m', 1, k=2))") == "operator.methodcaller('m', 1, k=2)"
    if sys.version_info >= (3, 13):
        assert run("import os\nos.process_cpu_count()") == 1


def test_a_new_type_is_of_the_program(run):
    assert run("import typing\nUserId = typing.NewType('UserId', int)\nrepr(UserId), UserId.__module__") == (
        "__main__.UserId",
        "__main__",
    )


def test_the_chain_of_a_traceback_exception(run):
    source = """
import traceback
def f():
    try:
        try: {}["k"]
        except KeyError: raise ValueError("v")
    except ValueError as error: raise OSError("o") from error
try: f()
except OSError as error: report = traceback.TracebackException.from_exception(error)
cause = report.__cause__
cause.exc_type, cause.stack[0].lineno, cause.__context__.exc_type, cause.__cause__, report.__suppress_context__, report.__context__.exc_type
"""
    assert run(source) == (ValueError, 6, KeyError, None, True, ValueError)


def test_walks_are_led_and_patterns_begin_in_folders(run):
    source = """
import glob, os, pathlib
for name in ("a/b", "a/skipped/c", "d/e"): os.makedirs(name)
seen = []
for folder, folders, files in os.walk("."):
    folders.sort(reverse=True)
    if "skipped" in folders: folders.remove("skipped")
    seen.append(folder)
late = [folder for folder, _, _ in os.walk("a", topdown=False)]
found = sorted(glob.glob("*", root_dir="a")), glob.glob("e", root_dir=pathlib.Path("d")), glob.glob(os.path.abspath("d") + "/*", root_dir="a")
os.removedirs("d/e")
seen, sorted(late), [*found[:2], len(found[2])], sorted(os.listdir(".")), os.path.realpath("a/../a") == os.path.abspath("a"), str(pathlib.Path("a").resolve(strict=True)) == os.path.abspath("a")
"""
    assert run(source) == (
        [".", "./d", "./d/e", "./a", "./a/b"],
        ["a", "a/b", "a/skipped", "a/skipped/c"],
        [["b", "skipped"], ["e"], 1],
        ["a"],
        True,
        True,
    )


def test_singledispatch_takes_unions_texts_and_functions(run):
    source = """
import functools
@functools.singledispatch
def f(x): return "object"
@f.register
def _(x: "int | float"): return "number"
@f.register(str | bytes)
def _(x): return "text"
f.register(list, lambda x: "list")
wrong = []
def bad(x: 5): pass
for given in (5, lambda x: x, list[int] | str, bad):
    try: f.register(given)
    except TypeError as error: wrong.append(str(error)[:7])
class K:
    @functools.singledispatchmethod
    def m(self, x): return "object"
    @m.register
    def _(self, x: int): return "int"
[f(1), f(1.5), f("a"), f(b"a"), f([]), f(None), K().m(1), K().m("a"), wrong]
"""
    assert run(source) == ["number", "number", "text", "text", "list", "object", "int", "object", ["Invalid"] * 4]


def test_what_built_in_classes_have_is_listed(run):
    names = run("[sorted(vars(kind)) for kind in (BaseException, classmethod, int)]")
    assert "with_traceback" in names[0] and "__isabstractmethod__" in names[1] and "bit_length" in names[2]


def test_what_is_found_is_called_as_it_was_asked_for(run):
    source = """
import glob, os, pathlib
os.makedirs("a/b")
open("a/b/f.txt", "w").close()
os.chdir("a")
failed = []
list(os.walk("../nothing", onerror=failed.append))
names = [[d, *f] for d, _, f in os.walk("..")], [str(p) for p in pathlib.Path("../a").rglob("*.txt")], glob.glob("*/*.txt"), glob.glob("../a/b/f.txt"), failed[0].filename
paths = [str(p) for p in pathlib.Path(".").glob("*")], [str(p) for p in pathlib.Path("b").glob("**/*.txt")], [e.name for e in os.scandir("..")], [e.path for e in os.scandir("b")]
names, paths
"""
    names, paths = run(source)
    assert names == (
        [[".."], ["../a"], ["../a/b", "f.txt"]],
        ["../a/b/f.txt"],
        ["b/f.txt"],
        ["../a/b/f.txt"],
        "../nothing",
    )
    assert paths == (["b"], ["b/f.txt"], ["a"], ["b/f.txt"])
