"""Modules that are files of the program's own: they run as its steps do."""

import os

import pytest

from safeexec.guest import Refused
from safeexec_backends.local.language import RestrictedLanguage
from safeexec_backends.local.language.identity import own_module


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    language = RestrictedLanguage(None, environ={})
    namespace = language.namespace()

    def step(source, **files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__in__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        value = None
        for code in language.compile(source, "<step 1>"):
            value = eval(code, namespace)
        return value

    return step


def test_a_file_is_imported(run):
    helper = '''"""Helps."""
import math
count = 0
class Shape:
    def area(self): return math.pi
def bump():
    global count
    count += 1
    return count
name = __name__
main = __name__ == "__main__"
'''
    source = """
import helper
from helper import bump, Shape as S
import helper as again
out = [bump(), helper.bump(), helper.count, again is helper, round(S().area(), 2), helper.name, helper.main]
helper.count = 10
out + [bump(), helper.__name__, helper.__doc__, helper.Shape.__module__, "helper" in __import__("sys").modules, repr(helper)]
"""
    expected = [1, 2, 2, True, 3.14, "helper", False, 11, "helper", "Helps.", "helper", True, "<module 'helper'>"]
    assert run(source, helper=helper) == expected


def test_packages_and_relative_imports(run):
    files = {
        "pkg__in____init__": "from .core import work\nfrom . import util\n__all__ = ['work', 'VERSION']\nVERSION = 2\nhidden = 1",
        "pkg__in__core": "import pkg\nfrom .util import twice\nfrom .sub.deep import D\ndef work(x): return twice(x), D, pkg.VERSION",
        "pkg__in__util": "def twice(x): return 2 * x",
        "pkg__in__sub__in__deep": "from ..util import *\nD = twice(21)",
    }
    source = """
from pkg import *
import pkg.sub.deep as deep
import importlib
(work(1), VERSION, deep.twice(3), importlib.import_module(".util", "pkg") is importlib.import_module("pkg.util"), "hidden" in globals())
"""
    assert run(source, **files) == ((2, 42, 2), 2, 6, True, False)
    with pytest.raises(ImportError, match="beyond top-level package"):
        run("import pkg.worse", pkg__in__worse="from ...far import x")
    with pytest.raises(ImportError, match="no known parent package"):
        run("import alone", alone="from . import x")
    with pytest.raises(ModuleNotFoundError, match=r"'pkg\.nothing': the working directory has no such file"):
        run("import pkg.nothing")


def test_modules_that_import_each_other(run):
    files = {"a": "import b\nA = 1\ndef f(): return b.B", "b": "import a\nB = 2\ndef f(): return a.A"}
    assert run("import a\na.f(), a.b.f()", **files) == (2, 1)


def test_a_module_that_fails_is_imported_anew(run):
    for _ in range(2):
        with pytest.raises(ValueError, match="at import"):
            run("import bad", bad="raise ValueError('at import')")
    with pytest.raises(SyntaxError) as info:
        run("import bad", bad="x = (1,\n")
    assert info.value.filename == "<bad.py>"
    assert run("import bad\nbad.x", bad="x = 1") == 1


def test_reload_and_forgetting(run):
    assert run("import m\nm.x", m="x = 1") == 1
    assert run("import m\nm.x", m="x = 2") == 1
    assert run("import importlib\nimportlib.reload(m).x, m.x") == (2, 2)
    assert run("import sys\ndel sys.modules['m']\nimport m\nm.x", m="x = 3") == 3
    assert run("importlib.util.find_spec('m').name, importlib.util.find_spec('none')") == ("m", None)


def test_folders_of_sys_path(run):
    source = "import sys\nsys.path.append('lib')\nimport inside\ninside.x"
    assert run(source, lib__in__inside="x = 5") == 5


def test_the_librarys_names_are_never_files(run):
    with pytest.raises(ImportError, match="Import of 'socket' is not allowed"):
        run("import socket", socket="x = 1")
    assert run("import math\nmath.pi > 3", math="pi = 0", json="") is True
    assert run("import json\njson.dumps(1)") == "1"


@pytest.mark.parametrize(
    "attack",
    [
        "import os\nos.system('true')",
        "def f(): yield\nf().gi_frame.f_builtins",
        "import ctypes",
        "from posix import system",
        "__builtins__",
        "__name__ = 'x'",
        "def f(): pass\nf.__globals__",
        "import sys\nsys._getframe()",
    ],
)
def test_the_same_rules_hold_in_them(run, attack):
    with pytest.raises((Refused, ImportError, AttributeError)) as info:
        run("import evil", evil=attack)
    assert isinstance(info.value, Refused) or type(info.value) is ImportError


def test_their_namespace_stays_the_sandboxs(run):
    names = ("__builtins__", "__name__", "__dict__")
    for name in names[:2]:
        with pytest.raises(Refused, match=r"belongs to the sandbox|cannot be changed"):
            run(f"import plain\nsetattr(plain, {name!r}, {{}})", plain="def f(): return open\nx = 1")
        with pytest.raises((Refused, AttributeError)):
            run(f"import plain\ndelattr(plain, {name!r})")
    assert (
        run("hasattr(plain, '__builtins__'), '__builtins__' in dir(plain), '__builtins__' in vars(plain)")
        == (False,) * 3
    )
    run("vars(plain)['x'] = 2\nplain.__dict__['__builtins__'] = {}")
    assert run("plain.x") == 1
    assert run("plain.f() is open") is True  # the guarded one still


def test_no_file_from_elsewhere(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other", numbered=True) / "secret.py"
    other.write_text("x = 1")
    os.symlink(other, "link.py")
    outside = str(other.parent)
    from safeexec_backends.local.language.facades import paths

    before = list(paths._roots)
    paths._roots[:] = [os.path.realpath(os.getcwd())]  # without /tmp, where these folders lie
    try:
        for name in ("link", "secret", "nothing"):  # the same answer, whether there is such a file or not
            with pytest.raises(ImportError, match=f"Import of {name!r} is not allowed"):
                run(f"import sys\nsys.path.append({outside!r})\nimport {name}")
    finally:
        paths._roots[:] = before


def test_classes_of_a_module_are_the_programs(run):
    model = """
from __future__ import annotations
from dataclasses import dataclass, field, KW_ONLY
from enum import Enum
from typing import ClassVar
@dataclass
class Point:
    x: int
    made: ClassVar[list] = []
    _: KW_ONLY
    y: int = 2
class Color(Enum):
    RED = 1
"""
    source = """
import model
from dataclasses import dataclass
@dataclass
class Far(model.Point):
    z: int = 3
p = Far(1, y=5)
p.extra = 1
match p:
    case model.Point(x=x, y=y): found = x, y
(found, repr(p), model.Color.RED.name, model.Point.made)
"""
    assert run(source, model=model) == ((1, 5), "Far(x=1, y=5, z=3)", "RED", [])


def test_a_module_that_answers_for_its_names(run):
    module = "def __getattr__(name):\n    if name == 'lazy': return 5\n    raise AttributeError(name)"
    assert run("import m\nfrom m import lazy\nm.lazy, lazy, hasattr(m, 'other'), hasattr(m, '__path__')", m=module) == (
        5,
        5,
        False,
        False,
    )


@pytest.mark.parametrize(
    "attack",
    [
        "m.__class__ = int",
        "type(m).x = 1",
        "object.__setattr__(m, '__getattr__', 1)",
        "m.__dict__.update(__builtins__={})\nm.probe()['__import__']",
        "exec('del __builtins__', m.__dict__)\nm.probe()",
        "from m import __builtins__",
        "importlib.reload.__self__",
        "sys.modules['os'] = m\nimport os\nos.probe()",
        "class P:\n    def __fspath__(self): return '.'\nsys.path.append(P())\nimport nothing",
    ],
)
def test_a_module_is_no_way_around(run, attack):
    module = "def probe(): return globals()['__builtins__']"
    with pytest.raises((Refused, ImportError, AttributeError, KeyError, TypeError)):
        run(f"import importlib, sys, m\n{attack}", m=module)


def test_doctest_of_a_module(run, capsys):
    module = 'def f():\n    """\n    >>> f()\n    1\n    >>> f() + 1\n    3\n    """\n    return 1\n'
    source = "import m, doctest\nfrom m import f\ntuple(doctest.testmod(m)), tuple(doctest.testmod())"
    assert run(source, m=module) == ((1, 2), (0, 0))
    assert 'File "__main__", line 5, in m.f' in capsys.readouterr().out


def test_a_name_of_one_character_is_an_object_of_its_own(run):
    """The interpreter has each such text once: with that for a mark, whatever class says it is of that module would be the program's."""
    assert own_module("m") is not "m"[0:1]
    with pytest.raises(AttributeError, match="leave that out"):
        run("import m\nclass A:\n    __module__ = 'mn'[:1]\n    def __init__(self): self.x = 1\nA()", m="y = 1")
