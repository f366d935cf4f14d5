"""Ordinary code that was refused, or silently did something else; and what may not come of allowing it."""

import pytest

from safeexec.guest import Refused


def test_input_reads_what_the_program_puts_there(run, capsys):
    source = """
import io, sys
from unittest import mock
sys.stdin = io.StringIO("5\\nlast")
seen = [int(input("number? ")), input()]
for wrong in (io.StringIO(), io.BytesIO(b"x\\n")):
    sys.stdin = wrong
    try: input()
    except (EOFError, TypeError) as error: seen.append(str(error))
with mock.patch("sys.stdin", io.StringIO("inner\\n")): seen.append(input())
sys.stdin = sys.__stdin__
try: input()
except RuntimeError as error: seen.append(str(error)[:24])
seen
"""
    wrong = ["EOF when reading a line", "object.readline() returned non-string"]
    assert run(source) == [5, "last", *wrong, "inner", "input() is not available"]
    assert capsys.readouterr().out == "number? "


def test_input_shows_nothing_that_reading_would_not(run):
    source = """
import sys
class Liar:
    @property
    def readline(self): return held
held = [].append
found = []
for stream in (sys, type, object(), Liar(), (x for x in "a"), None):
    sys.stdin = stream
    try: found.append(input())
    except (AttributeError, TypeError, RuntimeError) as error: found.append(type(error).__name__)
found
"""
    assert run(source) == [
        "AttributeError",
        "AttributeError",
        "AttributeError",
        "TypeError",
        "AttributeError",
        "RuntimeError",
    ]


def test_the_command_line_can_be_replaced(run):
    source = """
import argparse, sys
sys.argv = ["prog", "--n", "3"]
p = argparse.ArgumentParser()
p.add_argument("--n", type=int)
(p.parse_args().n, p.prog)
"""
    assert run(source) == (3, "prog")
    for value in ("('a',)", "type('L', (list,), {})()", "None"):
        with pytest.raises(TypeError, match="must be a list"):
            run(f"import sys\nsys.argv = {value}")
        with pytest.raises(TypeError, match="must be a list"):
            run(f"import sys\nsys.path = {value}")
    with pytest.raises(Refused):
        run("object.__setattr__(sys, 'argv', [])")


def test_a_module_is_found_in_a_replaced_path(run, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helper.py").write_text("x = 3")
    assert run("import sys\nsys.path = ['/etc', 7, 'lib'] + sys.path\nimport helper\nhelper.x") == 3


def test_files_named_on_the_command_line(run, tmp_path):
    (tmp_path / "in.txt").write_text("text")
    source = """
import argparse, io, sys
p = argparse.ArgumentParser()
p.add_argument("source", type=argparse.FileType())
sys.stdin = io.TextIOWrapper(io.BytesIO(b"input"))
seen = [p.parse_args(["in.txt"]).source.read(), argparse.FileType("rb")("-").read(), argparse.FileType("w")("-") is sys.stdout]
for mode, name in (("r", "missing"), ("r", "/etc/passwd"), ("q", "-"), ("rb", "/etc/shadow")):
    try: argparse.FileType(mode)(name)
    except (argparse.ArgumentTypeError, ValueError) as error: seen.append(str(error)[:28])
seen
"""
    assert run(source) == [
        "text", b"input", True, "can't open 'missing': [Errno", "can't open '/etc/passwd': [E", 'argument "-" with mode \'q\'',
        "can't open '/etc/shadow': [E",
    ]  # fmt: skip
    hostile = """
import argparse
class Mode(str):
    def __contains__(self, item): return True
class Own(argparse.FileType):
    def __init__(self, mode, *options): self._mode, self._options = mode, options
found = []
for kind in (Own(Mode("r"), 0), Own("r", -1, None, None, None, False, open), Own(7), Own("r", -1, None, None, None, True)):
    try: found.append(kind("in.txt"))
    except (TypeError, ValueError) as error: found.append(type(error).__name__)
(found[:3], argparse.FileType.__mro__[1:] == (object,))
"""
    assert run(hostile) == (["ValueError", "TypeError", "TypeError"], True)


def test_an_archive_knows_its_name(run, tmp_path):
    source = """
import gzip
with gzip.open("a.txt.gz", "wb") as file: file.write(b"x"); name = file.name
with gzip.GzipFile(fileobj=open("a.txt.gz", "rb")) as file: again = file.name, file.read()
(name, again)
"""
    assert run(source) == ("a.txt.gz", ("a.txt.gz", b"x"))
    header = (tmp_path / "a.txt.gz").read_bytes()
    assert header[3] == 8 and header[10:16] == b"a.txt\0"


def test_a_name_that_is_not_there_is_no_error_of_import(run, tmp_path):
    assert run("__import__('json', fromlist=['nothing']).__name__") == "json"
    with pytest.raises(Refused):
        run("__import__('os', fromlist=['system']).system")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "part.py").write_text("import nothing_of_the_kind")
    with pytest.raises(ImportError, match="nothing_of_the_kind"):
        run("__import__('pack', fromlist=['part'])")


def test_annotations_that_are_text_mean_names_of_their_own_module(run, tmp_path):
    (tmp_path / "shapes.py").write_text(
        "from __future__ import annotations\nimport collections.abc, functools\n"
        "class Shape:\n    other: Shape\n    def join(self, more: Shape) -> Shape: ...\n"
        "def area(x: Shape, y: collections.abc.Mapping) -> Shape: ...\n"
        "@functools.singledispatch\ndef kind(x): return 'any'\n"
        "@kind.register\ndef _(x: collections.abc.Mapping): return 'mapping'\n"
    )
    source = """
import typing, shapes
class Here: pass
class Square(shapes.Shape):
    side: "Here"
hints = typing.get_type_hints(Square), typing.get_type_hints(shapes.area), typing.get_type_hints(shapes.Shape().join)
(
    hints[0] == {"other": shapes.Shape, "side": Here}, hints[1]["return"] is shapes.Shape, hints[1]["y"].__name__,
    hints[2]["more"] is shapes.Shape, shapes.kind({}), shapes.kind(1),
)
"""
    assert run(source) == (True, True, "Mapping", True, "mapping", "any")


def test_no_annotation_finds_the_real_builtins(run):
    source = """
import typing
space = {}
exec("def f(x: 'open'): pass\\nclass C:\\n    a: 'open'", space)
space.pop("__builtins__", None)
class Borrowed:
    a: "open"
Borrowed.__module__ = "builtins"
found = [typing.get_type_hints(space["f"]), typing.get_type_hints(space["C"]), typing.get_type_hints(Borrowed)]
[kind is open for hints in found for kind in hints.values()], "__builtins__" in space
"""
    allowed, put_back = run(source)
    assert all(allowed) and not put_back
    for text in ("__builtins__", "__import__('os').system"):
        with pytest.raises(Refused):
            run(f"def g(x: {text!r}): pass\ntyping.get_type_hints(g)")


def test_a_module_says_that_nothing_of_it_can_be_deleted(run):
    with pytest.raises(TypeError, match="the module 'json' cannot be changed"):
        run("import json\ndel json.dumps")


def test_small_facts_can_be_asked(run, capsys):
    source = """
import abc, gc, re, sys, weakref
class A: pass
a = A(); r = weakref.ref(a)
before = gc.get_threshold()
gc.set_threshold(*before)
pattern = re.compile("a", re.DEBUG)
(
    gc.is_tracked([]), gc.is_finalized(a), len(gc.get_stats()) == 3, weakref.getweakrefcount(a), abc.get_cache_token() >= 0, sys.getswitchinterval() > 0,
    bool(pattern.match("a")),
)
"""
    assert run(source) == (True, False, True, 1, True, True, True)
    assert "LITERAL 97" in capsys.readouterr().out
