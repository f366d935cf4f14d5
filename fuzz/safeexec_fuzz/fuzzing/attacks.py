"""Strategies that generate attack programs: chains of attributes to something dangerous, spelled in many ways; imports; hooks; endless loops; data.

A generated program tries what it reached by itself (``PROBE``), so that any chain that leads out shows an effect.
"""

from __future__ import annotations

from hypothesis import strategies as st

PROBE = """
def probe(item, depth=2):
    for name in ("open", "popen", "system", "__import__", "load_module", "open_code"):
        for way in (lambda: getattr(item, name), lambda: item[name], lambda: item.__dict__[name]):
            try:
                use(name, way())
            except Exception:
                pass
    if depth:
        for way in (lambda: item["__builtins__"], lambda: item.__builtins__, lambda: item.__globals__, lambda: item.f_globals,
                    lambda: item.f_builtins, lambda: item["sys"], lambda: item["os"], lambda: item.__init__.__globals__):
            try:
                inner = way()
            except Exception:
                continue
            probe(inner, depth - 1)
    try:
        use("?", item)
    except Exception:
        pass
    if depth == 2:
        try:
            parts = list(item)[:400] if type(item) in (list, tuple, set) else ()
        except Exception:
            parts = ()
        for part in parts:
            if getattr(part, "__name__", "") in ("_wrap_close", "BuiltinImporter", "Popen", "FileIO", "FileLoader"):
                probe(part, 1)
def use(name, found):
    if not callable(found):
        return
    if name in ("popen",):
        print(found("cat @CANARY@").read())
    elif name == "system":
        found("touch @MARKER@")
    elif name in ("__import__", "load_module"):
        print(found("os").popen("cat @CANARY@").read())
    else:
        print(found("@CANARY@").read())
"""
"""Put before each program: it uses whatever it is handed, if that can do harm."""

ROOTS = (
    "()", "''", "{}", "b''", "0", "print", "len", "(lambda: 0)", "[].append", "''.join", "type", "object", "super", "(i for i in ())", "Exception",
    "made()", "made().method", "gen()", "caught()", "add", "lookup", "__import__", "property(lambda s: s)", "classmethod(len)", "range(3)", "iter([])",
    "json", "json.JSONEncoder", "json.dumps", "math", "math.sqrt", "collections.OrderedDict", "collections.namedtuple", "functools.partial(len)",
    "functools.lru_cache(made)", "re.compile('a')", "string.Formatter()", "random.Random()", "datetime.datetime.now()", "enum.Enum", "dataclasses.dataclass",
    "contextlib.suppress(OSError)", "io.StringIO()", "typing.List[int]", "types.SimpleNamespace()", "operator.attrgetter('a')", "itertools.count()",
    "asyncio.Queue", "logging.getLogger()", "threading.Thread()", "inspect.signature(made)", "os", "os.path", "sys", "sys.stdout", "pathlib.Path('a')",
)  # fmt: skip

NAMES = (
    "__class__", "__base__", "__bases__", "__mro__", "mro", "__subclasses__", "__dict__", "__globals__", "__builtins__", "__self__", "__func__", "__code__",
    "__closure__", "__defaults__", "__kwdefaults__", "__module__", "__init__", "__new__", "__call__", "__get__", "__getattribute__", "__reduce__",
    "__reduce_ex__", "__wrapped__", "__loader__", "__spec__", "__init_subclass__", "__weakref__", "__qualname__", "__annotations__", "__type_params__",
    "gi_frame", "gi_code", "cr_frame", "ag_frame", "f_back", "f_globals", "f_locals", "f_builtins", "f_code", "tb_frame", "tb_next", "__traceback__",
    "__context__", "__cause__", "obj", "cell_contents", "fget", "func", "args", "modules", "os", "sys", "_os", "builtins", "open", "load_module",
    "co_consts", "__origin__", "__args__", "loader", "parent", "manager", "stream", "buffer", "raw", "_module", "codecs", "__objclass__", "__text_signature__",
)  # fmt: skip

SETUP = """
import json, math, collections, functools, re, string, random, datetime, enum, dataclasses, contextlib, io, typing, types, operator, itertools
import asyncio, logging, threading, inspect, os, sys, pathlib
"""
DEFS = """
class made:
    def method(self): pass
def gen():
    yield 1
def caught():
    try:
        1 / 0
    except ZeroDivisionError as e:
        return e
"""


def _spell(name: str, how: int) -> str:
    """Code that reads an attribute of ``x`` into ``x``, in one of many ways."""
    half = len(name) // 2
    joined = f"{name[:half]!r} + {name[half:]!r}"
    return (
        f"x = x.{name}",
        f"x = getattr(x, {joined})",
        f"x = functools.reduce(getattr, [{joined}], x)",
        f"x = operator.attrgetter({joined})(x)",
        f"x = object.__getattribute__(x, {joined})",
        f"x = type.__getattribute__(x, {joined})",
        f"x = type(x).__dict__[{joined}].__get__(x)",
        f"x = vars(x)[{joined}]",
        f"x = string.Formatter().get_field('0.{name}', (x,), {{}})[0]",
        f"class M(type):\n    def __instancecheck__(cls, o): return True\nclass P(metaclass=M): pass\nmatch x:\n    case P({name}=y):\n        x = y",
        f"class M(type):\n    def __instancecheck__(cls, o): return True\nclass P(metaclass=M):\n    __match_args__ = ({name!r},)\nmatch x:\n    case P(y):\n        x = y",
        f"class S(str):\n    pass\nx = getattr(x, S({joined}))",
        f"x = dict(inspect.getmembers(x))[{joined}]",
        f"x = [v for k, v in vars(type(x)).items() if k == {joined}][0]",
        f"x = super(type(x), x).{name}",
        f"x = operator.methodcaller('__getattribute__', {joined})(x)",
    )[how % 16]


@st.composite
def chains(draw: st.DrawFn) -> str:
    """A chain of attributes, calls and items from something reachable; each thing on the way is tried."""
    root = draw(st.sampled_from(ROOTS))
    lines = [f"x = {root}", "probe(x)"]
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.integers(0, 9))
        if kind < 7:
            step = _spell(draw(st.sampled_from(NAMES)), draw(st.integers(0, 15)))
        elif kind == 7:
            step = "x = x()"
        elif kind == 8:
            step = f"x = x[{draw(st.sampled_from(['0', '-1', repr('os'), repr('__builtins__'), '1']))}]"
        else:
            step = "x = type(x)"
        lines += [step, "probe(x)"]
    body = "\n".join("    " + line for text in lines for line in text.splitlines())
    return f"{_imports()}{DEFS}{PROBE}try:\n{body}\nexcept Exception as e:\n    print(type(e).__name__)\n"


def _imports() -> str:
    # One by one: a target that refuses one module must not thereby be spared the rest.
    names = [name.strip() for line in SETUP.strip().splitlines() for name in line.removeprefix("import ").split(",")]
    return "".join(f"try:\n    import {name}\nexcept Exception:\n    {name} = None\n" for name in names)


MODULES = ("os", "posix", "subprocess", "_posixsubprocess", "socket", "ctypes", "_ctypes", "importlib", "imp", "sys", "pty", "shutil", "io", "_io", "builtins", "pickle",
           "marshal", "code", "runpy", "multiprocessing", "signal", "mmap", "fcntl", "gc", "_imp", "zipimport", "linecache", "os.path")  # fmt: skip


@st.composite
def imports(draw: st.DrawFn) -> str:
    """One spelling of an import."""
    name = draw(st.sampled_from(MODULES))
    top = name.partition(".")[0]
    half = len(name) // 2
    ways = (
        f"import {name} as x",
        f"from {top} import *\nx = dict(globals())",
        f"x = __import__({name[:half]!r} + {name[half:]!r})",
        f"import importlib\nx = importlib.import_module({name!r})",
        f"import sys\nx = sys.modules[{name!r}]",
        f"x = [k for k in object.__subclasses__() if k.__name__ == 'BuiltinImporter'][0].load_module({name!r})",
        f"exec('import {name} as x')",
        f"x = eval('__import__({name!r})')",
        f"space = {{}}\nexec('import {name} as x', space)\nx = space['x']",
        f"import json\nx = json.codecs.builtins.__import__({name!r})",
        f"def f():\n    import {name} as inner\n    return inner\nx = f()",
        f"class C:\n    import {name} as x\nx = C.x",
        f"import builtins\nx = builtins.__dict__['__import__']({name!r})",
        f"from importlib import util\ns = util.find_spec({name!r})\nx = util.module_from_spec(s)\ns.loader.exec_module(x)",
        f"x = __builtins__['__import__']({name!r}) if isinstance(__builtins__, dict) else __builtins__.__import__({name!r})",
    )
    way = draw(st.sampled_from(ways))
    body = "\n".join("    " + line for line in [*way.splitlines(), "probe(x)"])
    return f"{PROBE}try:\n{body}\nexcept Exception as e:\n    print(type(e).__name__)\n"


@st.composite
def formats(draw: st.DrawFn) -> str:
    """A format string that walks, in one of the ways there are to format."""
    path = "".join(
        "." + draw(st.sampled_from(NAMES)) if draw(st.integers(0, 3)) else "[0]" for _ in range(draw(st.integers(1, 5)))
    )
    root = draw(st.sampled_from(("lookup", "refuse", "add", "print", "made", "gen()")))
    way = draw(
        st.sampled_from(
            (
                'print("{{0{p}}}".format({r}))',
                'print("{{a{p}}}".format_map({{"a": {r}}}))',
                'print(format(string.Formatter().vformat("{{0{p}}}", ({r},), {{}})))',
                'print(list(map(str.format, ["{{0{p}}}"], [{r}])))',
                'print("{{0:{{1{p}}}}}".format("", {r}))',
                'print(collections.UserString("{{0{p}}}").format({r}))',
                'print(logging.Formatter("{{a{p}}}", style="{{", validate=False).format(logging.makeLogRecord({{"a": {r}}})))',
            )
        )
    ).format(p=path, r=root)
    return f"{_imports()}{DEFS}try:\n    {way}\nexcept Exception as e:\n    print(type(e).__name__)\n"


HOOKS = ("__repr__", "__str__", "__eq__", "__hash__", "__bool__", "__len__", "__iter__", "__getattr__", "__getattribute__", "__reduce_ex__", "__format__", "__del__",
         "__index__", "__int__", "__float__", "__fspath__", "__lt__", "__contains__", "__getitem__", "__call__", "__instancecheck__", "__dir__", "items", "keys")  # fmt: skip
BASES = (
    "",
    "(int)",
    "(str)",
    "(dict)",
    "(list)",
    "(tuple)",
    "(bytes)",
    "(float)",
    "(Exception)",
    "(set)",
    "(BaseException)",
)


@st.composite
def hooks(draw: st.DrawFn) -> str:
    """A class with hooks that call home, left behind as value, in containers, in an exception, or as a tool's argument."""
    base = draw(st.sampled_from(BASES))
    chosen = draw(st.lists(st.sampled_from(HOOKS), min_size=1, max_size=4, unique=True))
    action = draw(
        st.sampled_from(
            (
                'beacon("hook")',
                "raise SystemExit(3)",
                "raise KeyboardInterrupt",
                'open("@MARKER@", "w").close()',
                "raise MemoryError",
                "return self",
            )
        )
    )
    methods = "".join(
        f"    def {name}(self, *a, **k):\n        {action}\n        return {'1' if name != '__str__' else repr('x')}\n"
        for name in chosen
    )
    ending = draw(
        st.sampled_from(
            (
                "Hook()", "[Hook()]", "{1: (Hook(),)}", "raise ValueError(Hook())", "print(Hook())", "Hook", "kept = Hook()\nNone", "add(Hook(), 1)",
                "beacon(Hook())", "e = ValueError('x')\ne.__cause__ = None\ne.args = (Hook(),)\nraise e", "open(Hook())", "[Hook() for _ in range(3)] * 2",
                "import json\njson.dumps(Hook(), default=str)", "raise type('E', (Exception,), {'__str__': lambda s: str(Hook())})",
            )
        )
    )  # fmt: skip
    return f"class Hook{base}:\n{methods}{ending}\n"


@st.composite
def loops(draw: st.DrawFn) -> str:
    """A program that does not want to end."""
    body = draw(
        st.sampled_from(
            (
                "pass", "x = 1", "sum(range(10**5))", "''.join(['x'] * 100)", "import time\ntime.sleep(10)", "sorted(range(10**5))",
                "import re\nre.match('(a+)+$', 'a' * 50 + '!')", "7 ** 100000", "print(end='')", "[].append(1)", "max(iter(int, 1))", "None in iter(int, 1)",
            )
        )
    )  # fmt: skip
    text = f"while True:\n{_indent(body)}"
    for _ in range(draw(st.integers(0, 4))):
        wrap = draw(
            st.sampled_from(
                (
                    "try:\n{b}\nexcept BaseException:\n    pass", "try:\n{b}\nfinally:\n{b}", "while True:\n    try:\n{bb}\n    except:\n        continue",
                    "def f():\n{b}\nf()", "class C:\n{b}", "with S():\n{b}", "for _ in iter(int, 1):\n{b}", "def g():\n{b}\n    yield\nlist(g())",
                    "class R:\n    def __repr__(self):\n{bb}\n        return ''\nrepr(R())", "import asyncio\nasync def c():\n{b}\nasyncio.run(c())",
                )
            )
        )  # fmt: skip
        text = wrap.replace("{bb}", _indent(_indent(text))).replace("{b}", _indent(text))
    return f"class S:\n    def __enter__(self): return self\n    def __exit__(self, *a): return True\n{text}\n"


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def programs() -> st.SearchStrategy[tuple[str, str]]:
    """(kind, program) of every kind but the endless ones, which cost a second each."""
    kinds = {"chain": chains(), "import": imports(), "format": formats(), "hook": hooks()}
    return st.one_of(*[st.tuples(st.just(kind), strategy) for kind, strategy in kinds.items()])
