"""Ordinary code that was refused, or silently did something else; and what may not come of allowing it."""

import atexit
import copy
import os

import pytest

from safeexec.guest import Refused
from safeexec_backends.local.language import RestrictedLanguage


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
        "EOFError",
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


def test_input_that_has_ended_ends_the_loop_that_reads_it(run):
    source = """
numbers = []
while True:
    try: numbers.append(int(input()))
    except EOFError: break
numbers
"""
    assert run(source) == []


def test_only_descriptors_that_the_program_opened_count(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    secret = tmp_path.parent / "secret"
    secret.write_text("CANARY")
    with secret.open("r+") as held:
        source = f"""
import errno, os
reached = []
for number in [*range(64), {held.fileno()}, True, -1]:
    for use in (lambda n: os.read(n, 1), lambda n: os.write(n, b"x"), os.close, os.dup, os.fdopen, open, lambda n: os.lseek(n, 0, 0),
                lambda n: os.ftruncate(n, 0)):
        try: use(number)
        except OSError as error:
            if error.errno == errno.EBADF: continue
        reached.append((number, use))
reached
"""
        assert run(source) == []
        assert os.fstat(held.fileno()).st_size == 6


def test_a_number_that_now_is_another_file_does_not_count(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = """
import os
first = os.open("first", os.O_CREAT | os.O_RDWR)
with open(first, closefd=False) as file: pass
first
"""
    number = run(source)
    other = tmp_path / "other"
    other.write_text("CANARY")
    os.close(number)  # as C code would, that was given the number
    with other.open() as held:
        assert held.fileno() == number
        with pytest.raises(OSError, match="Bad file descriptor"):
            run(f"import os; os.read({number}, 6)")


def test_a_frame_is_facts_about_it_and_no_frame(run):
    source = """
import inspect, sys, traceback
frame = inspect.currentframe()
found = []
for name in "f_globals f_locals f_builtins f_trace clear tb_frame gi_frame __dict__".split():
    for owner in (frame, frame.f_code):
        try: found.append(getattr(owner, name))
        except AttributeError: pass
class Fake:
    tb_next = None
    @property
    def tb_frame(self): found.append("asked")
for call in (traceback.walk_tb, traceback.walk_stack, traceback.extract_stack, inspect.getframeinfo):
    try: list(call(Fake()))
    except TypeError: pass
(found, type(frame).__name__, frame.f_back)
"""
    assert run(source) == ([], "frame", None)


def test_the_frames_of_a_library_are_not_shown(run):
    source = """
import inspect, unittest, traceback
names = []
class T(unittest.TestCase):
    def test(self): names.extend((f.function, f.filename) for f in inspect.stack()); names.extend(traceback.format_stack())
unittest.TestSuite([T("test")]).run(unittest.TestResult())
names
"""
    shown = run(source)
    assert [name for name, _ in shown[:2]] == ["test", "<module>"]
    assert not [text for text in shown if "frozen" in str(text) or "/" in str(text)]


def test_a_handler_that_fails_names_no_file_of_the_host(run, capsys):
    source = """
import io, logging
log = logging.Logger("own")
log.addHandler(logging.StreamHandler(io.StringIO()))
def f(): log.warning("%d", "x")
f()
"""
    run(source)
    said = capsys.readouterr().err
    assert "--- Logging error ---" in said and "Message: '%d'" in said and "in f\n" in said
    assert "/" not in said


def test_a_library_that_imports_shows_nothing_of_it():
    language = RestrictedLanguage(("logging", "xml.dom", "bz2"), environ={})
    source = """
import bz2, logging.config, logging.handlers, xml.dom.expatbuilder, xml.dom.minidom
found = []
for module in (bz2, logging.config, logging.handlers, xml.dom.minidom, xml.dom.expatbuilder):
    for name in "os sys io logging _compression pickle socket urllib BZ2Compressor __builtins__".split():
        value = getattr(module, name, None)
        if name not in ("BZ2Compressor", "_compression"): found.append(value)
        for inner in "os sys":
            found.append(getattr(getattr(module, "logging", None), inner, None))
[f for f in found if f is not None]
"""
    namespace = language.namespace()
    value = None
    for code in language.compile(source, "<step 1>"):
        value = eval(code, namespace)
    assert value == []


def test_a_module_that_says_what_it_gives_cannot_name_what_is_the_sandboxs(run):
    source = """
import xml.dom.minicompat
xml.dom.minicompat.__all__.append("__builtins__")
import xml.dom.minidom
"""
    with pytest.raises(ImportError, match="cannot import all"):
        run(source)


def test_a_program_that_warned_can_test_itself(run):
    source = """
import io, unittest, warnings
count: int = 3
warnings.warn("noted", UserWarning)
from unittest.mock import mock_open, patch
class Test(unittest.TestCase):
    def test_warns(self):
        with self.assertWarns(DeprecationWarning): warnings.warn("old", DeprecationWarning)
    def test_opens(self):
        with patch("builtins.open", mock_open(read_data="one\\ntwo")) as opened:
            self.assertEqual(open("f").read(), "one\\ntwo")
            self.assertEqual(list(open("g")), ["one\\n", "two"])
        opened.assert_any_call("f")
result = unittest.main(argv=["x"], exit=False, testRunner=unittest.TextTestRunner(stream=io.StringIO())).result
(result.testsRun, result.errors, result.failures)
"""
    assert run(source) == (2, [], [])


def test_below_the_standard_input_are_bytes(run):
    source = """
import io, sys
read = sys.stdin.buffer.readline
facts = sys.stdin.name, sys.stdin.encoding, sys.stdin.isatty(), isinstance(sys.stdin, io.TextIOWrapper)
found = [read(), sys.stdin.buffer.read(), sys.stdin.read(), sys.stdin.readline(), list(sys.stdin), sys.stdin.buffer.read().split()]
try: sys.stdin.fileno()
except io.UnsupportedOperation: found.append("no descriptor")
facts, found
"""
    assert run(source) == (("<stdin>", "utf-8", False, True), [b"", b"", "", "", [], [], "no descriptor"])


def test_a_loops_handler_is_told_of_nothing_that_reads_files(run):
    source = """
import asyncio
loop = asyncio.new_event_loop()
told = []
loop.set_debug(True)
loop.set_exception_handler(lambda of, context: told.append((type(of) is type(loop), sorted(context))))
loop.call_exception_handler({"message": "m", "source_traceback": [("/etc/passwd", 1, "f", None)], "handle_traceback": []})
loop.call_soon(lambda: 1 / 0)
loop.call_soon(loop.stop)
loop.run_forever()
loop.close()
told
"""
    assert run(source) == [(True, ["message"]), (True, ["exception", "message"])]


def test_what_print_is_bound_to_is_no_module(run):
    assert run(
        "import types\nheld = getattr(print, '__self__', None)\ntype(held) is str, isinstance(held, types.ModuleType)"
    ) == (True, False)


def test_the_signature_of_a_dataclass_has_the_annotations_themselves(run):
    source = """
import dataclasses, inspect, typing
@dataclasses.dataclass
class A:
    x: int
    y: "str" = "a"
str(inspect.signature(A)), A.__init__.__annotations__, typing.get_type_hints(A.__init__)
"""
    hints = {"x": int, "y": str, "return": type(None)}
    assert run(source) == ("(x: int, y: 'str' = 'a') -> None", {"x": int, "y": "str", "return": None}, hints)


def test_databases_have_blobs_and_settings(run):
    source = """
import sqlite3
class Own(sqlite3.Connection):
    def read(self): return self.blobopen("t", "a", 1, readonly=True).read()
con = Own(":memory:")
con.execute("create table t(a)")
con.execute("insert into t values (zeroblob(4))")
with con.blobopen("t", "a", 1) as blob: blob.write(b"abcd")
with con.blobopen("sqlite_master", "sql", 1, readonly=True) as blob: described = blob.read()
kept = True
if hasattr(con, "setconfig"):
    con.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_FKEY, True)
    kept = con.getconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_FKEY)
con.read(), described, kept
"""
    assert run(source) == (b"abcd", b"CREATE TABLE t(a)", True)


def test_copies_of_namespaces_and_what_passes_on(run):
    source = """
import copy, operator, types
class S(types.SimpleNamespace): pass
class Passes:
    def __init__(self, of): self.of = of
    def __getattr__(self, name):
        if name == "of" or name[:2] == "__": raise AttributeError(name)
        return getattr(self.of, name)
class Keys(types.GenericAlias): pass
s = S(a=[1])
made = [copy.copy(s).a is s.a, copy.deepcopy(s).a, copy.deepcopy(Passes([2])).of, copy.copy(operator.attrgetter("a"))(s)]
if hasattr(copy, "replace"):
    made += [copy.replace(s, b=2).b, type(copy.replace(s)).__name__, copy.replace(types.SimpleNamespace(a=1), a=3).a]
made
"""
    late = [2, "S", 3] if hasattr(copy, "replace") else []
    assert run(source) == [True, [1], [2], [1], *late]


def test_import_functions_of_both_kinds(run):
    source = """
import importlib
[f("os.path", None, None, ["join"], 0).join("a", "b") for f in (__import__, importlib.__import__)]
"""
    assert run(source) == ["a/b", "a/b"]


def test_a_link_that_was_not_to_be_followed_is_not(run):
    source = """
import os, stat
class Follow:
    asked = 0
    def __bool__(self):
        Follow.asked += 1
        return Follow.asked > 1
stat.S_ISLNK(os.stat("link", follow_symlinks=Follow()).st_mode)
"""
    os.symlink("/etc/passwd", "link")  # in the session's folder
    assert run(source)


def test_what_is_registered_for_the_end_can_be_taken_back(run, monkeypatch):
    registered = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)
    source = """
import atexit
called = []
@atexit.register
def first(): called.append("first")
atexit.register(called.append, "second")
atexit.unregister(first)
called
"""
    called = run(source)
    for function in registered:
        function()
    assert called == ["second"]
