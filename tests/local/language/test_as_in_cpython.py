"""What public programs and books use and programs here did not have, or had otherwise than in CPython."""

import doctest
import json
import logging
import sys
import traceback

import pytest

from safeexec_backends.local.language.identity import PLAIN


@pytest.fixture(autouse=True)
def records_are_the_librarys():
    yield
    logging._logRecordFactory = logging.LogRecord


@pytest.fixture(autouse=True)
def the_recursion_limit_is_put_back():
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


def test_a_handler_keeps_the_formatter_that_it_has(run):
    source = """
import io, logging
out = io.StringIO()
mine, other = logging.StreamHandler(out), logging.StreamHandler(out)
before = mine.formatter
mine.setFormatter(logging.Formatter("mine %(message)s"))
logging.basicConfig(force=True, level="INFO", format="all %(message)s", handlers=[mine, other])
logging.info("hello")
before, out.getvalue()
"""
    assert run(source) == (None, "mine hello\nall hello\n")


@pytest.mark.parametrize(
    "given",
    [
        {"filename": "a", "stream": None},
        {"filename": None, "handlers": []},
        {"stream": None, "handlers": []},
        {"style": "x"},
        {"bogus": 1},
    ],
)
def test_what_basicconfig_refuses(run, given):
    handlers = logging.root.handlers[:]
    logging.root.handlers[:] = []
    try:
        with pytest.raises(ValueError) as expected:
            logging.basicConfig(**given)
    finally:
        logging.root.handlers[:] = handlers
    with pytest.raises(ValueError) as found:
        run(f"import logging\nlogging.root.handlers[:] = []\nlogging.basicConfig(**{given!r})")
    assert str(found.value) == str(expected.value)


LOGGERS = """
import io, logging
class Noting(logging.Logger):
    def note(self, text, *args): self.log(25, text, *args)
logging.setLoggerClass(Noting)
log = logging.getLogger("as_in_cpython.noting")
below = logging.getLogger("as_in_cpython.noting.below")
chosen = logging.getLoggerClass()
logging.setLoggerClass(logging.Logger)
out = io.StringIO()
log.addHandler(logging.StreamHandler(out))
log.setLevel(20)
log.note("text %d", 4)
type(log) is chosen is Noting, below.parent is log, out.getvalue(), type(logging.getLogger("as_in_cpython.plain")) is logging.Logger
"""


def test_a_programs_own_class_of_loggers(run):
    assert run(LOGGERS) == (True, True, "text 4\n", True)
    with pytest.raises(TypeError, match=r"logger not derived from .*: int"):
        run("logging.setLoggerClass(int)")


def test_a_programs_own_records(run):
    source = """
import io, logging
old = logging.getLogRecordFactory()
def factory(*args, **kwargs):
    record = old(*args, **kwargs)
    record.place = "here"
    return record
logging.setLogRecordFactory(factory)
out = io.StringIO()
handler = logging.StreamHandler(out)
handler.setFormatter(logging.Formatter("%(place)s %(user)s %(message)s"))
log = logging.Logger("x")
log.addHandler(handler)
log.warning("text", extra={"user": "me"})
same = logging.getLogRecordFactory() is factory
logging.setLogRecordFactory(old)
out.getvalue(), same, logging.makeLogRecord({"a": 1}).a
"""
    assert run(source) == ("here me text\n", True, 1)


@pytest.mark.parametrize("how", ["logging.setLoggerClass", "logging.root.manager.setLoggerClass"])
def test_what_is_no_logger_gets_no_manager(run, how):
    source = f"""
import json, logging
class Not(logging.Logger):
    def __new__(cls, name): return json.JSONEncoder
{how}(Not)
logging.getLogger("as_in_cpython.not." + {how!r})
"""
    with pytest.raises(TypeError, match="is no Logger"):
        run(source)
    run("logging.setLoggerClass(logging.Logger)\nlogging.root.manager.setLoggerClass(logging.Logger)")
    assert not hasattr(json.JSONEncoder, "manager")


@pytest.mark.parametrize(
    "made",
    [
        "json.dumps",
        "type('R', (logging.LogRecord, types.GenericAlias), {'__new__': lambda c, *a, **k: types.GenericAlias.__new__(c, json.dumps, ()), '__init__': lambda s, *a, **k: None})()",
    ],
)
def test_what_is_no_record_gets_no_variables(run, made):
    source = f"""
import json, logging, types
made = {made}
logging.setLogRecordFactory(lambda *args, **kwargs: made)
logging.Logger("x").warning("text", extra={{"added": 1}})
"""
    try:
        with pytest.raises(TypeError):
            run(source)
        assert not hasattr(json.dumps, "added")
    finally:
        vars(json.dumps).pop("added", None)


def test_a_million_frames_are_asked_for_out_of_habit(run):
    """What is granted stays bounded: what recurses through C functions runs out of its stack."""
    source = """
import sys
import traceback
sys.setrecursionlimit(10**6)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
found = depth(5_000), sys.getrecursionlimit()
try: depth(100_000)
except RecursionError: found += ("RecursionError",)
found
"""
    assert run(source) == (5_000, 10_000, "RecursionError")
    with pytest.raises(ValueError, match="must be greater or equal than 1"):
        run("sys.setrecursionlimit(0)")


def test_a_threads_stack_is_asked_for_too(run):
    source = "import threading\nthreading.stack_size(2**27), threading.stack_size(2**26), threading.stack_size(0)"
    assert run(source) == (0, 2**27, 2**26)
    with pytest.raises(ValueError, match="size not valid: 5 bytes"):
        run("threading.stack_size(5)")


def test_the_case_of_a_path_tells_it_from_others(run):
    """From 3.13 on the library asks which module a path's names are taken apart by."""
    source = """
from pathlib import Path, PurePosixPath, PureWindowsPath
names = [Path("b"), Path("B"), Path("a")]
(Path("A") == Path("a"), len(set(map(Path, "aA"))), [str(p) for p in sorted(names)], PurePosixPath("X.MD").match("*.md"),
 PurePosixPath("/A/b").is_relative_to("/a"), PureWindowsPath("A") == PureWindowsPath("a"))
"""
    assert run(source) == (False, 2, ["B", "a", "b"], False, False, True)


@pytest.mark.parametrize("kind", ["Path", "PurePosixPath", "PureWindowsPath"])
def test_a_paths_module_is_not_shown(run, kind):
    found = run(f"import pathlib\nx = pathlib.{kind}\n[getattr(o, 'parser', None) for o in (x, x('a'))]")
    assert not any(isinstance(item, type(sys)) for item in found)


def test_paths_of_windows(run):
    source = r"""
from pathlib import PurePosixPath, PureWindowsPath
p = PureWindowsPath(r"C:\Users\bob\file.TXT")
p.parts, p.drive, p.as_posix(), str(p.with_suffix(".md") / "x"), p == PureWindowsPath("c:/users/BOB/file.txt"), str(PurePosixPath(PureWindowsPath("a\\b")))
"""
    namespace = {}
    *lines, last = source.strip().splitlines()
    exec("\n".join(lines), namespace)
    assert run(source) == eval(last, namespace)


def test_more_questions_to_paths(run):
    source = """
from pathlib import Path
here = Path(".")
Path("gone").symlink_to("nowhere")
Path("lines").write_bytes(b"a\\r\\nb")
(here.is_mount(), here.is_socket(), here.is_fifo(), here.is_block_device(), here.is_char_device(), Path("gone").exists(),
 Path("gone").exists(follow_symlinks=False), Path("lines").read_text(newline=""), here.owner() == here.group())
"""
    assert run(source) == (False, False, False, False, False, False, True, "a\r\nb", True)
    with pytest.raises(FileNotFoundError):
        run("Path('nothing').owner()")


def test_annotations_of_a_class_or_function(run):
    source = """
import inspect
class A:
    x: int
    y: "list[A]"
    def f(self, z: "int") -> "A": ...
class B(A): pass
def found(o, **more): return inspect.get_annotations(o, **more)
"""
    run(source)
    assert run("found(A) == {'x': int, 'y': 'list[A]'}, found(B), found(len)") == (True, {}, {})
    assert run("found(A, eval_str=True) == {'x': int, 'y': list[A]}") is True
    assert run("found(A.f, eval_str=True) == {'z': int, 'return': A}, found(A().f)['z']") == (True, "int")
    assert run("found(A, eval_str=True, locals={'A': str})['y'] == list[str]") is True
    with pytest.raises(TypeError, match="is not a module, class, or callable"):
        run("found(5)")


def test_annotations_are_evaluated_under_guard(run):
    with pytest.raises(AttributeError, match="__globals__"):
        run("import inspect\ndef f(x: 'f.__globals__'): ...\ninspect.get_annotations(f, eval_str=True)")


def test_methods_of_a_programs_own_descriptors(run):
    source = """
class Positive:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, instance, owner=None): return instance.__dict__[self.name]
    def __set__(self, instance, value): instance.__dict__[self.name] = value
def doubled(cls):
    inner = cls.__set__
    def __set__(self, instance, value): inner(self, instance, value * 2)
    cls.__set__ = __set__
    return cls
@doubled
class Doubled(Positive): pass
class C: x = Doubled()
c = C()
c.x = 4
c.x, Doubled.__get__ is Positive.__get__
"""
    assert run(source) == (8, True)


@pytest.mark.parametrize("name", ["__get__", "__set__"])
def test_but_not_those_of_the_library(run, name):
    with pytest.raises(AttributeError):
        run(f"class Mine(property): pass\nMine.{name}")


def test_a_method_that_is_called_dict(run):
    assert run("class A:\n    def __dict__(self): return {'a': 1}\nA().__dict__()") == {"a": 1}


def test_the_tree_of_exceptions(run):
    source = """
class Mine(LookupError): pass
sorted(kind.__name__ for kind in LookupError.__subclasses__()), int.__subclasses__(), [k for k in object.__subclasses__() if k.__module__ != "__main__"]
"""
    assert run(source) == (["IndexError", "KeyError", "Mine"], [], [BaseException])


def test_the_streams_of_a_program_are_streams(run, capsys):
    source = """
import io, sys
with sys.stdout as out: print("inside", file=out)
print("after")
isinstance(sys.stdout, io.TextIOBase), isinstance(sys.stderr, io.IOBase), isinstance(sys.stdout, io.BufferedIOBase), sys.stdout.seekable()
"""
    assert run(source) == (True, True, False, False)
    assert capsys.readouterr().out == "inside\nafter\n"


def test_codecs_by_name(run):
    source = """
import codecs, io
out = io.BytesIO()
codecs.getwriter("latin-1")(out).write("\\xe9")
codecs.register_error("as_in_cpython", lambda error: ("?", error.end))
codecs.getreader("utf-8")(io.BytesIO("\\xe9".encode())).read(), out.getvalue(), "a\\xe9".encode("ascii", "as_in_cpython")
"""
    assert run(source) == ("\xe9", b"\xe9", b"a?")


@pytest.mark.parametrize("name", ["strict", "surrogateescape", "ignore", "replace"])
def test_the_standard_ways_with_errors_stay(run, name):
    """By one of them names of files are decoded, after they were looked at."""
    with pytest.raises(TypeError, match="take another name"):
        run(f"import codecs\ncodecs.register_error({name!r}, lambda error: ('..', error.end))")
    assert "\xe9".encode("ascii", "ignore") == b""


def test_names_that_were_left_out(run):
    source = """
import heapq, inspect, locale, os, platform, sqlite3, sys, threading, types, typing, uuid
heap = [3, 1, 2]
heapq._heapify_max(heap)
system, node, *rest = platform.uname()
(locale.getencoding(), heap[0], isinstance(inspect.currentframe(), types.FrameType), typing.ForwardRef("int").__forward_arg__, sys.gettrace(), threading.get_native_id() > 0,
 os.EX_USAGE, os.terminal_size((80, 24)).columns, uuid.RESERVED_NCS, system, repr(sqlite3.connect(":memory:"))[:27])
"""
    expected = (
        "UTF-8",
        3,
        True,
        "int",
        None,
        True,
        64,
        80,
        "reserved for NCS compatibility",
        "Linux",
        "<sqlite3.Connection object ",
    )
    assert run(source) == expected
    if sys.version_info < (3, 14):
        assert run("sqlite3.version") == "2.6.0"


def test_renames_makes_and_removes_folders(run):
    source = "import os\nopen('a', 'w').close()\nos.renames('a', 'b/c/d')\nos.renames('b/c/d', 'e')\nos.listdir()"
    assert run(source) == ["e"]
    with pytest.raises(PermissionError):
        run("os.renames('e', '/etc/e')")


def test_a_doctest_shows_where_it_went_wrong(run, capsys):
    source = '''
def inverse(x):
    """
    >>> inverse(0)
    1
    >>> inverse(
    """
    return 1 // x
import doctest
tuple(doctest.testmod())
'''
    assert run(source) == (2, 2)
    said = capsys.readouterr().out
    assert (
        '    Traceback (most recent call last):\n      File "<doctest __main__.inverse[0]>", line 1, in <module>'
        in said
    )
    assert 'File "<step 1>", line ' in said
    assert said.count("Traceback (most recent call last)") == 2


@pytest.mark.parametrize(
    ("source", "instead"),
    [
        ("from urllib import request", "ask for what you need through a tool"),
        ("from http import client", "ask for what you need through a tool"),
        ("from concurrent.futures import ProcessPoolExecutor", "use concurrent.futures.ThreadPoolExecutor"),
        ("import tracemalloc\ntracemalloc.take_snapshot()", "use tracemalloc.get_traced_memory"),
        ("import doctest\ndoctest.DocTestFinder()", "use doctest.testmod"),
        ("import logging, time\nlogging.Formatter.converter = time.gmtime", "inherit from it"),
        ("import logging\nlogging.Logger.trace = None", "inherit from it"),
        ("from urllib.error import HTTPError", "ask for what you need through a tool"),
        ("import resource", "time.process_time"),
        ("from typing_extensions import Self", "use typing"),
        ("import my_helpers", "no file in the working directory is called so, and packages are not installed here"),
        ("import tqdm.auto", "packages are not installed here unless the policy names them"),
        ("import time\ntime.tzset()", "use zoneinfo"),
        ("import sys\nsys.meta_path", "into the working directory"),
        ("import os\nos.kill(os.getpid(), 9)", "no signals"),
    ],
)
def test_refusals_say_what_to_do_instead(run, source, instead):
    with pytest.raises((ImportError, AttributeError, TypeError)) as found:
        run(source)
    assert instead in str(found.value)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_module_that_is_left_out_says_so_whether_the_library_has_imported_it(run, monkeypatch, loaded):
    import urllib.request

    if not loaded:
        monkeypatch.delattr(urllib, "request")
    with pytest.raises(ImportError, match="ask for what you need through a tool"):
        run("from urllib import request")


def test_arguments_by_the_names_that_they_have(run):
    source = """
import inspect, platform, uuid
def f(x: "int", y: float = 2) -> "list[int]": ...
class C:
    def __init__(self, z: "str"): ...
space = {"x": 1}
(str(inspect.signature(f, eval_str=True)), str(inspect.signature(f)), str(inspect.signature(C, eval_str=True)), platform.platform(terse=True),
 uuid.uuid1(node=5, clock_seq=1).node, eval("x + y", globals=space, locals={"y": 2}), exec("z = 3", globals=space), space["z"])
"""
    assert run(source) == (
        "(x: int, y: float = 2) -> list[int]",
        "(x: 'int', y: float = 2) -> 'list[int]'",
        "(z: str)",
        "Linux",
        5,
        3,
        None,
        3,
    )


def test_modules_below_others(run):
    source = """
import asyncio.queues, concurrent.futures.thread, json.encoder
from asyncio.exceptions import CancelledError
from asyncio.locks import Lock
from concurrent.futures.thread import ThreadPoolExecutor
from json import decoder, encoder
from json.encoder import JSONEncoder
import asyncio, concurrent.futures, json
(CancelledError is asyncio.CancelledError, Lock is asyncio.Lock, asyncio.queues.Queue is asyncio.Queue,
 ThreadPoolExecutor is concurrent.futures.ThreadPoolExecutor, JSONEncoder is json.JSONEncoder, encoder.JSONEncoder is JSONEncoder)
"""
    assert run(source) == (True,) * 6


def test_the_names_in_what_is_evaluated(run):
    """Who evaluates what others wrote looks through them first."""
    source = """
import ast
def names(text, mode="eval"): return compile(text, "<string>", mode).co_names
names("sin(x).real + 1"), names("a = b\\nc.d = a", "exec"), names(ast.parse("f(y)", mode="eval")), eval(compile("abs(-1)", "<string>", "eval"))
"""
    assert run(source) == (("sin", "x", "real"), ("b", "a", "c", "d"), ("f", "y"), 1)


@pytest.mark.parametrize(
    "what", ["code.co_consts", "code._names", "code.co_code", "type(code)._names", "type(code)().co_names"]
)
def test_and_nothing_more_of_code(run, what):
    with pytest.raises(AttributeError):
        run(f"code = compile('1', '<string>', 'eval')\n{what}")


def test_what_was_added_to_a_parser_can_be_changed(run):
    source = """
import argparse
parser = argparse.ArgumentParser(prog="tool")
commands = parser.add_subparsers(dest="command")
commands.required = True
commands.add_parser("go")
number = parser.add_argument("--number")
number.type, number.default = int, 3
group = parser.add_argument_group("one")
group.title = "Two"
group.add_argument("--flag", action="store_true").help = "said"
found = vars(parser.parse_args(["--number", "4", "go"])), "Two:" in parser.format_help(), "said" in parser.format_help()
try: parser.parse_args([])
except SystemExit as error: found += (error.code,)
found
"""
    assert run(source) == ({"number": 4, "flag": False, "command": "go"}, True, True, 2)


@pytest.mark.parametrize("name", ["_fields", "_asdict", "_replace"])
def test_fields_of_a_tuple_are_read_without_a_call_the_next_time(run, name):
    kind = f"Named{name}"
    run(f"from collections import namedtuple\n{kind} = namedtuple({kind!r}, 'x')\n{kind}(1).{name}")
    assert any(known.__name__ == kind for known in PLAIN.values())


@pytest.mark.parametrize("module", ["queue", "asyncio"])
def test_a_queue_of_ones_own(run, module):
    source = f"""
import {module}
class Largest({module}.PriorityQueue):
    def _put(self, item): super()._put(-item)
    def _get(self): return -super()._get()
q = Largest()
for item in (1, 3, 2): q.put_nowait(item)
[q.get_nowait() for _ in range(3)], q.qsize()
"""
    assert run(source) == ([3, 2, 1], 0)


FILE = """
Text.

>>> x = shift + 1
>>> x
3
>>> 1 + 1
5
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_examples_of_a_file(run, capsys, tmp_path, verbose):
    (tmp_path / "said.txt").write_text(FILE)
    ours = run(f"import doctest\ntuple(doctest.testfile('said.txt', globs={{'shift': 2}}, verbose={verbose}))")
    shown = capsys.readouterr().out
    assert ours == (1, 3)
    theirs = tuple(doctest.testfile("./said.txt", module_relative=False, globs={"shift": 2}, verbose=verbose))
    assert (theirs, capsys.readouterr().out) == (ours, shown)
    with pytest.raises(PermissionError):
        run("doctest.testfile('/etc/passwd', module_relative=False)")


def test_modules_are_looked_for_in_the_working_directory_first(run, tmp_path):
    (tmp_path / "as_in_cpython_helper.py").write_text("x = 5")
    assert run("import sys\nfirst = sys.path[0]\nimport as_in_cpython_helper\nfirst, as_in_cpython_helper.x") == ("", 5)


STARS = {
    "a part is left": """
try:
    raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
except* ValueError:
    pass
""",
    "nothing was taken": """
try:
    raise ValueError("naked")
except* TypeError:
    pass
""",
    "in functions": """
def f():
    try:
        raise ExceptionGroup("g", [ValueError(1), TypeError(2), KeyError(3)])
    except* ValueError:
        pass
    except* KeyError:
        raise
def g():
    try:
        f()
    except* TypeError:
        raise RuntimeError("new")
    finally:
        str()
g()
""",
    "clauses that raise": """
try:
    raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
except* ValueError:
    raise KeyError("k")
except* TypeError as e:
    raise e.exceptions[0]
""",
    "one by itself": """
try:
    raise ValueError("naked")
except* ValueError as e:
    shown = repr(e)
    raise
""",
}


@pytest.mark.parametrize("source", STARS.values(), ids=STARS)
def test_what_except_star_leaves_says_where_it_happened(run, source):
    def told(call):
        with pytest.raises(Exception) as found:
            call()
        report = traceback.TracebackException.from_exception(found.value)
        queue, lines = [report], []
        while queue:
            item = queue.pop(0)
            lines.append([f.lineno for f in item.stack if f.filename == "<step 1>"])
            queue += [*(item.exceptions or ()), *filter(None, (item.__cause__, item.__context__))]
        return lines

    namespace = {}
    theirs = told(lambda: exec(compile(source, "<step 1>", "exec"), namespace))
    assert told(lambda: run(source)) == theirs
    if "shown" in namespace:
        assert run("shown") == namespace["shown"]
