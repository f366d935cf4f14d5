"""Imports, errors, line numbers, and what a step sees of the guest program."""

import os
import subprocess
import sys
import textwrap
import traceback

import pytest

from safeexec import guest
from safeexec.guest import Refused
from safeexec_backends.import_rule import nearest
from safeexec_backends.local.language import RestrictedLanguage
from safeexec_backends.local.language.facades import builders


def run(source, imports=None, filename="<step 1>", **variables):
    language = RestrictedLanguage(imports, environ={})
    namespace = language.namespace()
    namespace.update(variables)
    value = None
    for code in language.compile(textwrap.dedent(source), filename):
        value = eval(code, namespace)
    return value


# -- imports ---------------------------------------------------------------------------------------------------------------


def test_a_refused_import_says_what_is_allowed():
    with pytest.raises(ImportError) as info:
        run("import requests", ("json", "math"))
    assert isinstance(info.value, Refused)
    assert str(info.value) == (
        "Import of 'requests' is not allowed; allowed: json, math; "
        "no host is reached from this sandbox but those that Policy.network names; ask for what you need through a tool"
    )


def test_of_many_modules_the_closest_are_named():
    for asked, close in (("jsn", "json"), ("urllib.request", "urllib.parse"), ("quopry", "quopri")):
        with pytest.raises(ImportError) as info:
            run(f"import {asked}")
        said = str(info.value)
        assert said.startswith(f"Import of {asked!r} is not allowed; allowed: {close} and ")
        assert "more (Policy.imports; by default safeexec.DEFAULT_IMPORTS)" in said and len(said) < 300
    patterns = [f"module{n}" for n in range(30)]
    assert nearest("zzz", patterns) == "30 modules (Policy.imports; by default safeexec.DEFAULT_IMPORTS)"
    assert nearest("numpy.linalgg", [*patterns, "numpy.*"]).startswith("numpy.* and 30 more (")
    assert nearest("module", patterns).count("module") == 6
    assert nearest("x" * 10**7, patterns) and nearest("x", []) == "nothing"
    assert nearest("x", patterns[:3]) == "module0, module1, module2"


def test_a_program_can_do_without_a_module():
    source = "try:\n    import numpy\nexcept ModuleNotFoundError as error:\n    name = error.name\nname"
    assert run(source) == "numpy"


@pytest.mark.parametrize(
    "statement",
    [
        "import os",
        "from os import path",
        "import os.path as p",
        "__import__('os')",
        "import importlib\nimportlib.import_module('os')",
        "exec('import os')",
        "eval('__import__(\"os\")')",
        "from os import *",
    ],
)
def test_only_the_modules_of_the_policy_can_be_imported(statement):
    with pytest.raises(ImportError) as info:
        run(statement, ("json", "importlib"))
    assert isinstance(info.value, Refused)


def test_a_package_comes_with_its_reviewed_submodules():
    assert run("import collections.abc\ncollections.abc.Mapping.__name__", ("collections",)) == "Mapping"
    assert run("from urllib.parse import quote\nquote('a b')", ("urllib.parse",)) == "a%20b"
    with pytest.raises(ImportError):
        run("import urllib.request", ("urllib.parse",))


def test_future_statements_need_no_permission():
    assert run("from __future__ import annotations\ndef f(x: nope): pass\nf.__annotations__", ()) == {"x": "nope"}


def test_every_facade_can_be_made():
    language = RestrictedLanguage(environ={})
    for name in builders():
        assert dir(language.gate.find(name)), name


def test_what_c_code_imports_is_not_handed_out():
    assert run("__import__('_strptime', {}, {}, [], 0)") is None
    with pytest.raises(ImportError):
        run("import _strptime")
    source = "import datetime\ndatetime.datetime.strptime('2024', '%Y').strftime('%d.%m.%Y')"
    assert run(source, ("datetime",)) == "01.01.2024"


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy", reason="third-party modules are tested with numpy")


def test_third_party_modules_at_the_users_word(numpy):
    source = """
    import numpy as np
    import numpy.linalg as la
    from numpy.random import default_rng
    a = np.arange(6).reshape(2, 3)
    a[0, 1] = 10
    a[a > 4] += 1
    a += 1
    b = np.zeros(3)
    b[:2] = [1, 2]
    a.shape = (3, 2)
    (a.sum(), la.norm([3, 4]), b.tolist(), np.linalg.det(np.eye(2)), a.T.shape, default_rng(1).integers(5) < 5, np.pi)
    """
    found = run(source, ("numpy.*",))
    assert found == (32, 5.0, [1.0, 2.0, 0.0], 1.0, (2, 3), True, numpy.pi)


def test_dataframes_can_be_written_to():
    pytest.importorskip("pandas")
    source = """
    import pandas as pd
    df = pd.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]})
    df["w"] = df["v"] * 2
    df.loc[df.k == "b", "v"] += 10
    df.v += 1
    g = df.groupby("k").agg(total=("v", "sum")).reset_index()
    df.columns = ["a", "b", "c"]
    list(df.columns), g.total.tolist(), df.b.mean(), len(df[df.c > 2])
    """
    assert run(source, ("pandas.*",)) == (["a", "b", "c"], [6, 13], 19 / 3, 2)


@pytest.mark.parametrize(
    "path", ["np.os", "np.sys", "np.lib.npyio.os", "np.ctypeslib.ctypes", "np.__loader__", "np.__dict__"]
)
def test_a_third_party_module_does_not_show_other_modules(path, numpy):
    with pytest.raises(AttributeError):
        run(f"import numpy as np\n{path}", ("numpy.*",))


def test_third_party_modules_cannot_be_changed(numpy):
    with pytest.raises(TypeError):
        run("import numpy as np\nnp.array = 1", ("numpy.*",))
    assert callable(numpy.array)


# -- errors ----------------------------------------------------------------------------------------------------------------


def test_line_numbers_are_the_programs():
    source = """
    class A:
        def __init__(self):
            self._x = 1
        def f(self):
            self._x += 1
            match self:
                case A():
                    import math
                    return math.sqrt(-1)
    try:
        pass
    except* ValueError:
        pass
    A().f()
    """
    with pytest.raises(ValueError) as info:
        run(source)
    lines = [f.lineno for f in traceback.extract_tb(info.value.__traceback__) if f.filename == "<step 1>"]
    assert lines == [15, 10]


def test_syntax_errors_are_cpythons():
    for source in (
        "x = = 1",
        "def f(:\n pass",
        "return 1",
        "x = 1\nbreak",
        "for",
        "'abc",
        "f(**{}, *[])",
        "x = '\x0c\u2028'\nreturn 1",
    ):
        with pytest.raises(SyntaxError) as expected:
            compile(source, "<step 1>", "exec")
        with pytest.raises(SyntaxError) as found:
            RestrictedLanguage(environ={}).compile(source, "<step 1>")
        assert found.value.args[0] == expected.value.args[0]
        assert (found.value.lineno, found.value.offset) == (expected.value.lineno, expected.value.offset)
        assert (
            found.value.text == expected.value.text
            or found.value.text.strip() == source.split("\n")[found.value.lineno - 1].strip()
        )


def test_our_own_files_are_hidden():
    hidden = RestrictedLanguage.hidden
    with pytest.raises(AttributeError) as info:
        run("().__globals__")
    frames = traceback.extract_tb(info.value.__traceback__)
    kept = [f.filename for f in frames if not f.filename.startswith(hidden)]
    assert kept == [__file__, __file__, "<step 1>"]


def test_refusals_look_like_what_code_catches():
    for source, kind in (
        ("().__globals__", "AttributeError"),
        ("import socket", "ImportError"),
        ("int.x = 1", "TypeError"),
    ):
        with pytest.raises(Refused) as info:
            run(source)
        assert type(info.value).__name__ == kind
    assert run("getattr((), '__globals__', 5)") == 5
    assert run("hasattr((), '__globals__')") is False


def test_a_refused_name_has_its_line():
    with pytest.raises(Refused) as info:
        run("x = 1\n\ndel __builtins__")
    assert info.value.lineno == 3


@pytest.mark.parametrize(
    "source",
    [
        "'(' * 100_000 + ')' * 100_000",
        "'[' * 5_000 + ']' * 5_000",
        "'-' * 200_000 + '1'",
        "'1+' * 100_000 + '1'",
        "'a' + '.b' * 50_000",
        "'f' + '()' * 50_000",
        "'lambda: ' * 20_000 + '1'",
        "'not ' * 100_000 + '1'",
        "'x = ' * 50_000 + '1'",
        "'\\n'.join(' ' * i + 'if 1:' for i in range(99)) + ' pass'",
        "'match 1:\\n case ' + '[' * 3_000 + ']' * 3_000 + ': pass'",
        "'x' + '[0]' * 50_000 + ' = 1'",
        "'\"' + '{' * 50_000 + '\".format()'",
        "'f' + repr('{' * 150)",
        "'\\0'",
    ],
)
def test_a_bomb_for_the_parser_is_an_error_not_a_crash(source):
    program = (
        "from safeexec_backends.local.language import RestrictedLanguage\n"
        f"source = {source}\n"
        "try:\n    RestrictedLanguage().compile(source, '<step 1>')\n"
        "except (SyntaxError, RecursionError, MemoryError, ValueError) as error:\n    print(type(error).__name__)\n"
        "else:\n    print('compiled')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.strip()


def test_deep_but_reasonable_code_compiles():
    assert run("+".join(["1"] * 900)) == 900
    assert run("x = " + "[" * 60 + "1" + "]" * 60 + "\nlen(x)") == 1


# -- inside the guest program ----------------------------------------------------------------------------------------------


class Channel:
    def __init__(self):
        self.sent = []

    def send(self, header, blobs=()):
        self.sent.append((header, [bytes(b) for b in blobs]))

    def buffered(self):
        return False


@pytest.fixture
def session():
    streams = sys.stdout, sys.stderr
    channel = Channel()
    program = guest.Guest(channel, RestrictedLanguage())
    tools = [{"name": "search", "text": "search(q)"}]
    program.handle({"t": "init", "id": 0, "tools": tools, "files": False, "env": {"SHOWN": "yes"}})

    def step(code):
        channel.sent.clear()
        program.handle({"t": "run", "id": 1, "code": textwrap.dedent(code)})
        output = b"".join(b for header, blobs in channel.sent if header["t"] == "out" for b in blobs).decode()
        return output, channel.sent[-1][0]

    yield step
    sys.stdout, sys.stderr = streams
    os.environ.pop("SHOWN", None)


@pytest.mark.parametrize(
    "source",
    [
        "display.__self__",
        "display.__func__.__globals__",
        "search._call",
        "type(search)._call.__get__(search)",
        "search.__getstate__()",
        "search.__reduce_ex__(4)",
        "class T(type(search)): pass\nT._call",
        "import sys\nsys.stdout._streams",
        "import sys\nsys.__stdout__._streams",
        "ToolError.__init__.__globals__",
        "print.__globals__",
        "import operator\noperator.attrgetter('_call.__self__')(search)",
        "'{0._call.__self__}'.format(search)",
        "import contextlib, io\nr = contextlib.redirect_stdout(io.StringIO())\nr.__enter__()\nr._old",
        "import copy\ncopy.copy(search)._call",
        "import inspect\n[v for k, v in inspect.getmembers(search) if k == '_call'][0]",
    ],
)
def test_the_guest_program_is_out_of_reach(session, source):
    _, answer = session(source)
    assert answer["error"]["kind"] in ("policy", "exception"), answer
    assert "v" not in answer


def test_a_step_ends_with_a_policy_error(session):
    _, answer = session("import requests")
    assert (answer["error"]["kind"], answer["error"]["type"]) == ("policy", "ImportError")
    assert "Import of 'requests' is not allowed; allowed: " in answer["error"]["message"]


def test_tracebacks_show_the_programs_lines_only(session):
    _, answer = session("import json\n\ndef f():\n    return json.loads('{')\n\nf()")
    text = answer["error"]["traceback"]
    assert [line.strip() for line in text.splitlines() if "File" in line] == [
        'File "<step 1>", line 6, in <module>',
        'File "<step 1>", line 4, in f',
    ]
    assert "return json.loads('{')" in text
    _, answer = session("import os\nos.system('true')")
    assert "safeexec" not in answer["error"]["traceback"]


def test_state_lasts_over_steps_and_hidden_variables_stay_hidden(session):
    session("class P:\n    def __init__(self): self._v = 1\np = P()")
    output, _ = session(
        """
        match p:
            case P(): p._v += 1
        try:
            raise ValueError(1)
        except* ValueError as e:
            p._v += 1
        print(p._v, sorted(n for n in globals() if not n.startswith("__")))
        """
    )
    assert output == "3 ['P', 'ToolError', 'display', 'p', 'search']\n"


def test_the_environment_is_the_policys(session):
    output, _ = session("import os\nprint(dict(os.environ), os.getenv('HOME'), os.path.expandvars('$SHOWN'))")
    assert output == "{'SHOWN': 'yes'} None yes\n"


def test_streams(session):
    output, _answer = session(
        """
        import sys, io, contextlib
        sys.stdout.write("a\\n")
        with contextlib.redirect_stdout(io.StringIO()) as buffer:
            print("hidden")
            sys.stdout.write("also")
        sys.stdout.buffer.write(b"b\\n")
        sys.stdout = io.StringIO()
        print("lost")
        sys.stdout = sys.__stdout__
        print("c", buffer.getvalue().split())
        """
    )
    assert output == "a\nb\nc ['hidden', 'also']\n"
    session("import sys, io\nsys.stdout = io.StringIO()\nprint('lost')")
    assert session("print('back', sys.stdout.name)")[0] == "back <stdout>\n"


def test_taking_the_builtins_away_does_not_bring_the_real_ones():
    language = RestrictedLanguage(environ={})
    namespace = language.namespace()
    del namespace["__builtins__"]  # as a host could, through session.variables
    (code,) = language.compile("open.__name__, open", "<step 2>")
    assert eval(code, namespace)[1] is not open


def test_input_is_refused_clearly(session):
    _, answer = session("input('name?')")
    assert "input() is not available" in answer["error"]["message"]


def test_every_default_import_is_a_reviewed_selection():
    from safeexec.policy import DEFAULT_IMPORTS

    # One without a facade would be shown as the real module.
    assert set(DEFAULT_IMPORTS) <= set(builders())
    language = RestrictedLanguage(DEFAULT_IMPORTS, environ={})
    for name in DEFAULT_IMPORTS:
        assert not isinstance(language.gate.find(name), type(os)), name
