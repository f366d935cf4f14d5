"""Attacks on the language, judged by effect: what the program holds afterwards, what it printed, what changed outside.

An attack may raise or run to its end; it fails the test when it reached a real module, a frame, code, an unguarded builtin, an event
loop, the guest program, a file outside, or changed a class of the standard library.
"""

import ast
import asyncio
import builtins
import collections
import contextlib
import io
import json
import os
import sys
import types
import warnings
from pathlib import Path

import pytest

from safeexec import guest
from safeexec_backends.local.language import RestrictedLanguage, facades
from safeexec_backends.local.language.facades import guarded
from safeexec_backends.local.language.identity import is_library_class
from safeexec_backends.local.language.transformer import Transformer

HERE = Path(__file__).parent / "attacks"
REAL = [
    builtins.open, io.open_code, builtins.eval, builtins.exec, builtins.compile, builtins.__import__, builtins.globals,
    builtins.locals, builtins.vars, builtins.getattr, builtins.setattr, builtins.input, os.system, os.popen, os.fork,
    sys._getframe, sys.modules, builtins.__dict__, types.CodeType, types.FrameType, io.FileIO, type.__subclasses__,
    object.__getattribute__, object.__setattr__, object.__reduce_ex__, json.__dict__, collections.__dict__,
]  # fmt: skip
KINDS = (
    types.ModuleType, types.FrameType, types.CodeType, types.CellType, io.FileIO, asyncio.AbstractEventLoop, guest.Guest,
    guest.Stream, RestrictedLanguage,
)  # fmt: skip
SIGNS = ("<frame object", "<frame at", "<module 'os' from", "<module 'sys' (", "CANARY", "PWN", "<code object <")


def attacks() -> list:
    found = []
    for file in sorted(HERE.glob("*.txt")):
        for part in file.read_text().split("#: ")[1:]:
            name, _, source = part.partition("\n")
            found.append(pytest.param(source, id=f"{file.stem}: {name}"))
    return found


def within(value, depth=4):
    """The value and what it holds, without running code of the program."""
    yield value
    kind = type(value)  # by identity: the metaclass of a program's class says what it is equal to
    if depth and any(kind is other for other in (list, tuple, set, frozenset)):
        for item in list(value):
            yield from within(item, depth - 1)
    elif depth and (kind is dict or kind is types.MappingProxyType):
        for key, item in list(value.items()):
            yield from within(key, depth - 1)
            yield from within(item, depth - 1)


def dangers(values):
    found = []
    for value in values:
        for item in within(value):
            if isinstance(item, KINDS) and type(item) is not type:
                found.append(f"{type(item).__name__} object")
            if any(item is real for real in REAL):
                found.append(repr(item)[:80])
            if type(item) is type and issubclass(item, KINDS) and item is not object:
                found.append(f"class {item.__name__}")
            if type(item) is type and item.__module__ in (
                "os",
                "subprocess",
                "socket",
                "ctypes",
                "importlib._bootstrap",
            ):
                found.append(f"class {item.__module__}.{item.__name__}")
            if type(item) is str and any(sign in item for sign in SIGNS):
                found.append(item[:80])
    return found


def attack(source, imports=None, module=False):
    """(what the program holds, what it printed, the error) after a run in the restricted language, or of a file that it imports."""
    language = RestrictedLanguage(imports, environ={})
    if module:
        Path("evil.py").write_text(source)
        source = "import evil"
        language.gate.own.forget = lambda name: None  # what a module that failed holds is looked at, too
    namespace = language.namespace()
    output = io.StringIO()
    value = error = None
    stdout, stderr, limit = sys.stdout, sys.stderr, sys.getrecursionlimit()
    with warnings.catch_warnings(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        warnings.simplefilter("ignore")
        try:
            for code in language.compile(source, "<step 1>"):
                value = eval(code, namespace)
                if code.co_flags & 0x80:
                    value = asyncio.run(value)
        except BaseException as caught:
            error = caught
    sys.stdout, sys.stderr = stdout, stderr
    sys.setrecursionlimit(limit)
    builtins_ = namespace.get("__builtins__")
    assert builtins_ is language.builtins, "the program exchanged its builtins"
    spaces = [namespace, *language.gate.own.spaces()]
    assert all(space["__builtins__"] is language.builtins for space in spaces), "a module exchanged its builtins"
    held = [{k: v for k, v in space.items() if k not in ("__builtins__", "evil")} for space in spaces]
    return [value, *held], output.getvalue(), error


STDLIB = [
    json.JSONEncoder,
    json.JSONDecoder,
    json,
    os,
    sys,
    int,
    str,
    collections.UserDict,
    types.FunctionType,
    asyncio.Queue,
]


@pytest.mark.parametrize("source", attacks())
def test_has_no_effect(source, tmp_path, monkeypatch):
    has_no_effect(source, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("source", attacks())
def test_has_no_effect_in_a_module_of_the_programs_own(source, future, tmp_path, monkeypatch):
    has_no_effect(future + source, tmp_path, monkeypatch, module=True)


def has_no_effect(source, tmp_path, monkeypatch, module=False):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "canary").write_text("CANARY")
    monkeypatch.chdir(inside)
    # /tmp is open to programs, and this directory lies in it: here only the working directory is.
    from safeexec_backends.local.language.facades import paths

    monkeypatch.setattr(paths, "set_roots", lambda *roots: paths._roots.__setitem__(slice(None), [str(inside)]))
    before = {id(k): set(vars(k)) for k in STDLIB}
    names = {k: v for k, v in vars(os).items() if callable(v)}
    values, printed, _ = attack(source.replace("@OUTSIDE@", str(outside)), module=module)
    assert not dangers([*values, printed])
    assert sorted(p.name for p in outside.iterdir()) == ["canary"]
    assert os.getcwd() == str(inside)
    for kind in STDLIB:
        # CPython's own caches may come; nothing that the attack named may.
        assert not {n for n in set(vars(kind)) - before[id(kind)] if not n.startswith("_")}, kind
    assert all(vars(os)[k] is v for k, v in names.items())
    assert json.loads(json.dumps({"a": 1})) == {"a": 1}


def test_what_typing_remembers_of_others_is_not_compared_with_what_is_the_programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list[types.CodeType]  # as a library does in an annotation; it is remembered
    values, _, error = attack(
        """
import types, typing
loot = []
class X:
    now = 0
    def __hash__(self): return self.now
    def __eq__(self, other):
        loot.append(other)
        raise ValueError  # it is not remembered itself
x = X()
for guess in range(hash(types.FunctionType) - 5000, hash(types.FunctionType) + 2000):
    x.now = guess
    try: typing.List[x]
    except ValueError: pass
"""
    )
    assert error is None
    assert not dangers(values)


def test_the_attack_harness_sees_what_full_python_would_reach(tmp_path, monkeypatch):
    """The same check must fail for an unguarded language, or it proves nothing."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(
        "import os\ndef g(): yield\nloot = g().gi_frame\nmore = [open, ().__class__.__base__.__subclasses__()]",
        namespace,
    )
    found = dangers([{k: v for k, v in namespace.items() if k != "__builtins__"}])
    assert {"module object", "frame object"} <= set(found)
    assert any("built-in function open" in f for f in found)
    assert any("class os." in f for f in found)


def test_an_import_at_the_end_of_the_stack_leaves_no_module_without_its_guards(monkeypatch):
    def at_the_end(name):
        raise RecursionError

    monkeypatch.setattr(facades, "_builders", {})
    with monkeypatch.context() as short:
        short.setattr(facades.importlib, "import_module", at_the_end)
        with pytest.raises(RecursionError):
            facades.builders()
    assert facades.builders()["types"] is guarded.BUILDERS["types"]


def test_only_text_is_compiled():
    """A tree passes for source, and what it holds would not be looked at where it is no list."""
    with pytest.raises(TypeError):
        RestrictedLanguage(environ={}).compile_one(ast.parse("1"), "<x>", "exec")


def test_a_class_is_the_librarys_where_its_module_has_it(monkeypatch):
    own = {"Own": type("Own", (), {"__module__": "warnings"}), "Other": type("JSONEncoder", (), {"__module__": "json"})}
    space = {"__builtins__": {}, "__name__": "warnings"}
    exec("def f(self): pass\nf.__qualname__ = 'Own.f'", space)  # as a program's, without the mark
    own["Own"].f = space["f"]
    monkeypatch.setattr(warnings, "Own", own["Own"], raising=False)  # as a program puts a hook there
    assert not any(map(is_library_class, own.values()))
    assert all(map(is_library_class, (int, json.JSONEncoder, collections.deque, asyncio.Future, types.SimpleNamespace)))


def test_a_scope_that_runs_later_asks_anew_for_what_it_reads():
    """A variable may be exchanged by another thread between the look at its class and the reading, unless it is the function's alone."""
    places = ["def g(x: a.gi_frame): pass", "def g() -> a.gi_frame: pass", "x: a.gi_frame = 1"]
    if sys.version_info >= (3, 12):
        places += [
            "type X = a.gi_frame",
            "type X[T: a.gi_frame] = 1",
            "def g[T: a.gi_frame](): pass",
            "class C[T](a.gi_frame): pass",
        ]
        places += ["class C[T](metaclass=a.gi_frame): pass"]
    for place in places:
        tree = Transformer().visit(ast.parse(f"def f(a):\n {place}"))
        assert sum(isinstance(node, ast.Name) and node.id == "a" for node in ast.walk(tree)) == 1, place
    own = Transformer().visit(ast.parse("def f(a):\n return a.gi_frame"))
    assert sum(isinstance(node, ast.Name) and node.id == "a" for node in ast.walk(own)) == 3
