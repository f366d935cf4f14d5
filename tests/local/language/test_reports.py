"""What a program is told of errors and of who logged: its own lines, and nothing of the host; and what the policy leaves out stays out."""

import builtins
import functools
import gc
import logging
import pathlib
import sys
import threading
import types
import warnings

import pytest

import safeexec
from safeexec import guest
from safeexec.guest import Refused
from safeexec_backends.local.language import RestrictedLanguage, reports
from safeexec_backends.local.language.facades import borrowed, builders
from safeexec_backends.local.language.identity import is_facade


@pytest.fixture
def reported():
    """CPython's and pytest's own are put back."""
    before = threading.excepthook, sys.unraisablehook
    reports.install()
    yield
    threading.excepthook, sys.unraisablehook = before


def shows_no_path(text):
    return "/" not in text and ".py" not in text


def test_who_logs_is_the_program_at_whatever_level(run, capsys):
    source = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(pathname)s %(filename)s %(funcName)s %(lineno)d", force=True)
def f(log, level, info=False):
    log("x", stacklevel=level, stack_info=info)
for log in (logging.warning, logging.getLogger("own").warning):
    for level in (1, 2, 3, 50): f(log, level)
    f(log, 1, True)
"""
    run(source)
    lines = capsys.readouterr().out.splitlines()
    inner, outer = "<step 1> <step 1> f 5", "<step 1> <step 1> <module> 7"
    assert [line for line in lines if line.startswith("<step 1>")] == [inner, *[outer] * 3, inner] * 2
    assert lines.count('  File "<step 1>", line 5, in f') == lines.count('  File "<step 1>", line 8, in <module>') == 2
    assert shows_no_path("\n".join(lines))


def test_a_record_shows_its_own_variables(run):
    source = """
import logging
class Record(logging.LogRecord):
    def __init__(self, *args):
        super().__init__(*args)
        self._own = 7
made = Record("n", 10, "p", 1, "%d", (3,), None)
plain = logging.makeLogRecord({"msg": "m", "_own": 5})
templates = {"%": "%(_own)s %(message)s", "{": "{_own} {message}", "$": "$_own $message"}
[logging.Formatter(t, style=s).format(r) for s, t in templates.items() for r in (made, plain)]
"""
    assert run(source) == ["7 3", "5 m"] * 3


def test_a_thread_that_fails_shows_the_programs_lines(run, capsys, reported):
    source = """
import json, threading
def f(): json.loads("{")
def g(): raise SystemExit
for target in (f, g):
    thread = threading.Thread(target=target, name="worker")
    thread.start()
    thread.join()
"""
    run(source)
    said = capsys.readouterr().err
    assert said.count("Exception in thread") == 1 and "in thread worker:" in said
    assert 'File "<step 1>", line 3, in f' in said and "JSONDecodeError" in said
    assert shows_no_path(said)


def test_a_finalizer_that_fails_shows_the_programs_lines(run, capsys, reported):
    source = """
import json
class C:
    def __del__(self): json.loads("{")
C()
class Broken:
    def __repr__(self): raise ValueError
    def __call__(self, *args): json.loads("{")
import weakref
o = C.__new__(type("D", (), {}))
w = weakref.ref(o, Broken())
del o
"""
    run(source)
    gc.collect()
    said = capsys.readouterr().err
    assert said.count("Exception ignored in") == 2 and said.count("JSONDecodeError") == 2
    assert 'File "<step 1>", line 4, in __del__' in said and "<object repr() failed>" in said
    assert shows_no_path(said)


def test_a_stream_that_fails_ends_nothing(run, reported):
    source = """
import sys, threading
seen = []
class Stream:
    def write(self, text):
        seen.append(text)
        raise OSError("full")
    def flush(self): pass
def f(): raise ValueError("lost")
sys.stderr = Stream()
thread = threading.Thread(target=f)
thread.start()
thread.join()
sys.stderr = sys.__stderr__
seen
"""
    said = run(source)
    assert len(said) == 1 and "ValueError: lost" in said[0] and shows_no_path(said[0])


def test_a_callback_that_fails_shows_the_programs_lines(run, capsys):
    source = """
import asyncio, concurrent.futures, json
future = concurrent.futures.Future()
future.add_done_callback(lambda _: json.loads("{"))
future.set_result(1)
async def main(): asyncio.get_running_loop().call_soon(lambda: json.loads("["))
asyncio.run(main())
"""
    handlers, last = logging.root.handlers[:], logging.lastResort
    for handler in handlers:  # those of the tests
        logging.root.removeHandler(handler)
    try:
        run(source)
    finally:
        for handler in handlers:
            logging.root.addHandler(handler)
    assert last is logging.lastResort
    said = capsys.readouterr().err
    assert said.count("JSONDecodeError") == 2 and 'File "<step 1>", line 4' in said
    assert shows_no_path(said)


def values(language, source):
    namespace = language.namespace()
    value = None
    for code in language.compile(source, "<step 1>"):
        value = eval(code, namespace)
    return value


@pytest.mark.parametrize(
    "target",
    ["urllib.request.urlopen", "importlib.machinery.SourceFileLoader", "asyncio.base_events.events", "json.tool.main"],
)
def test_a_package_that_the_policy_names_opens_no_module_that_it_does_not(target):
    """Named from `unittest.mock`, too: the real module would come with all that it has."""
    language = RestrictedLanguage(("unittest", "urllib.parse", "importlib", "asyncio", "json"), environ={})
    with pytest.raises(Refused, match=r"is not allowed"):
        values(language, f"from unittest.mock import patch\npatch({target!r}).getter()")


CONFIG = """[loggers]
keys=root
[handlers]
keys=h
[formatters]
keys=
[logger_root]
handlers=h
[handler_h]
class=StreamHandler
args=(%s,)
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_a_file_of_settings_names_no_module_that_the_policy_leaves_out(allowed):
    imports = ("logging", "io", *(["os"] if allowed else []))
    source = f"import io, logging.config\nlogging.config.fileConfig(io.StringIO({CONFIG % 'os'!r}))\nlogging.root.handlers[0].stream"
    before = logging.root.handlers[:], logging.root.level
    try:
        if allowed:
            assert repr(values(RestrictedLanguage(imports, environ={}), source)) == "<module 'os'>"
        else:
            with pytest.raises(NameError):
                values(RestrictedLanguage(imports, environ={}), source)
    finally:
        logging.root.handlers[:] = before[0]
        logging.root.setLevel(before[1])


@pytest.mark.skipif(sys.platform != "linux", reason="n/a: the sandbox is Linux's")
def test_the_traceback_of_a_step_names_no_folder_of_who_built_python():
    """A callback from C stands below a line of the file in C, as its compiler was told to call it."""
    source = """
import xml.parsers.expat
def start(*args): 1 / 0
parser = xml.parsers.expat.ParserCreate()
parser.StartElementHandler = start
parser.Parse("<a/>")
"""
    error = safeexec.run(source, sandbox="local").error
    assert error.type == "ZeroDivisionError" and "in start" in error.traceback
    assert '.c"' not in error.traceback


def test_no_function_is_a_method_of_the_sandbox(run):
    """Library code that takes a method apart would hand out what it belongs to."""
    language = RestrictedLanguage(environ={})
    given = {name: item for name, item in language.builtins.items() if type(item) is types.MethodType}
    for module in sorted(builders().keys() - borrowed.NAMES):
        shown = language.gate.find(module)
        given |= {f"{module}.{n}": v for n in dir(shown) if type(v := getattr(shown, n)) is types.MethodType}
    ours = {n: m for n, m in given.items() if type(m.__self__).__module__.startswith("safeexec")}
    assert given
    assert not {n for n, m in ours.items() if not is_facade(type(m.__self__))}


def test_cached_properties_are_asked_once(run):
    source = """
import functools, ipaddress
asked = []
class A:
    @functools.cached_property
    def x(self):
        asked.append(1)
        return 5
class B(A): pass
class Slotted:
    __slots__ = ()
    @functools.cached_property
    def x(self): return 1
b = B()
found = [b.x, b.x, vars(b), type(A.x).__name__]
del b.x
found += [b.x, len(asked), str(ipaddress.ip_network("10.0.0.0/8").broadcast_address)]
try: Slotted().x
except TypeError as error: found.append(str(error)[:21])
found
"""
    assert run(source) == [5, 5, {"x": 5}, "cached_property", 5, 2, "10.255.255.255", "No '__dict__' attribute"[:21]]


OURS = pathlib.Path(reports.__file__).parent
WARNS = "import warnings\nwarnings.warn('noted', RuntimeWarning)"


@pytest.mark.parametrize("file", [OURS / "rewriting.py", OURS.parent / "cell.py", guest.__file__])
def test_what_is_warned_about_while_the_sandbox_runs_names_none_of_its_files(file):
    """A coroutine that nobody awaited ends wherever the last reference to it goes; no program needs to have imported warnings for that."""
    language = RestrictedLanguage(None, environ={})
    code = compile(WARNS, str(file), "exec")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        warn = functools.partial(exec, code, {"__builtins__": builtins})
        warn()
        namespace = language.namespace() | {"warn": warn}
        for step in language.compile("\n\nwarn()", "<step 1>"):
            eval(step, namespace)
    assert [(found.filename, found.lineno) for found in noted] == [("sys", 1), ("<step 1>", 3)]
