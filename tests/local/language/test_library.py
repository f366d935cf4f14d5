"""Modules of the standard library that run as the program's own code."""

import types

import pytest

from safeexec.guest import Refused
from safeexec_backends.local.language import RestrictedLanguage
from safeexec_backends.local.language.facades import borrowed
from safeexec_backends.local.language.facades.facade import Facade


def run(source, imports=None):
    language = RestrictedLanguage(imports, environ={})
    namespace = language.namespace()
    value = None
    for code in language.compile(source, "<step 1>"):
        value = eval(code, namespace)
    return value


@pytest.mark.parametrize("name", sorted(n for n in borrowed.NAMES if borrowed.exists(n)))
def test_every_one_loads(name):
    language = RestrictedLanguage(environ={})
    assert isinstance(language.gate.find(name), Facade)
    assert borrowed.code_of(name).co_filename == f"<frozen {name}>"


def test_their_classes_are_the_programs():
    """Not those of the real module: what a program changes in them is gone with the session."""
    import unittest

    source = (
        "import unittest\nunittest.TestCase.longMessage = 'changed'\nunittest.TestCase.extra = 1\nunittest.TestCase"
    )
    made = run(source)
    assert made is not unittest.TestCase
    assert made.extra == 1
    assert unittest.TestCase.longMessage is True
    assert run("import unittest\nunittest.TestCase.longMessage") is True


def test_unittest_main(capsys):
    source = """
import unittest
class T(unittest.TestCase):
    def test_right(self): self.assertEqual(1, 1)
    def test_wrong(self):
        for x in range(3):
            self.assertLess(x, 2, "too much")
unittest.main(argv=["x"], exit=False).result.testsRun
"""
    assert run(source) == 2
    shown = capsys.readouterr().err
    assert "FAIL: test_wrong (__main__.T.test_wrong)" in shown
    assert 'File "<step 1>", line 7, in test_wrong' in shown
    assert "AssertionError: 2 not less than 2 : too much" in shown
    assert "FAILED (failures=1)" in shown
    assert "unittest" not in shown.replace("unittest.main", "")  # the library's own lines are left out


def test_what_they_import_is_not_handed_on():
    assert run("import unittest.case\nhasattr(unittest.case, 'sys')") is False
    with pytest.raises(ImportError):
        run("from unittest.case import sys", ("unittest",))
    for name in ("pkgutil", "signal", "socket"):  # stand-ins for libraries only
        with pytest.raises(ImportError):
            run(f"import unittest, email.utils\nimport {name}")


def test_the_policy_says_which():
    with pytest.raises(ImportError) as info:
        run("import unittest", ("math",))
    assert isinstance(info.value, Refused)
    assert run("import unittest\nunittest.TestCase.__name__", ("unittest",)) == "TestCase"


def test_a_mock_of_a_builtin_is_the_sessions_own():
    source = """
from unittest.mock import patch
with patch("builtins.input", return_value="typed"):
    inside = input("? ")
try:
    input()
except Exception as error:
    after = type(error).__name__
inside, after != "NameError"
"""
    assert run(source) == ("typed", True)
    assert run("import builtins\nbuiltins.len = None\nlen") is None
    assert run("len('ab')") == 2
    assert len("ab") == 2


@pytest.mark.parametrize(
    "source",
    [
        "import builtins\nbuiltins.__import__ = 1",
        "import builtins\nbuiltins.__build_class__ = 1",
        "import builtins\nbuiltins.nonsense = 1",
        "import builtins\ndel builtins.__build_class__",
        "import __main__\n__main__.__builtins__ = {}",
        "import __main__\n__main__.__name__ = 'x'",
        "import __main__\ndel __main__.__builtins__",
        "import unittest\nunittest.TestCase = 1",
        "from unittest.mock import patch\nwith patch('os.getcwd', return_value=1): pass",
        "from unittest.mock import patch\nwith patch('json.dumps', return_value=1): pass",
        "from unittest.mock import patch\nwith patch.object(dict, 'get'): pass",
    ],
)
def test_what_may_not_be_exchanged(source):
    with pytest.raises((TypeError, AttributeError)):
        run(source)


@pytest.mark.parametrize(
    "target", ["os.system", "sys._getframe", "subprocess.run", "unittest.case.sys", "tarfile.os", "email.utils.socket"]
)
def test_resolve_name_gives_what_the_program_may_read(target):
    with pytest.raises((AttributeError, ImportError)):
        run(f"from unittest.mock import patch\npatch({target!r}).__enter__()")


def test_tarfile_stays_inside(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("CANARY")
    monkeypatch.chdir(tmp_path / "inside")
    from safeexec_backends.local.language.facades import paths

    monkeypatch.setattr(
        paths, "set_roots", lambda *roots: paths._roots.__setitem__(slice(None), [str(tmp_path / "inside")])
    )
    source = f"""
import tarfile, io
try:
    with tarfile.open("a.tar", "w") as t: t.add({str(tmp_path / "secret")!r})
except OSError as error: print(error)
data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as t:
    info = tarfile.TarInfo("../escaped"); info.size = 1
    t.addfile(info, io.BytesIO(b"x"))
    link = tarfile.TarInfo("link"); link.type = tarfile.SYMTYPE; link.linkname = "../secret"
    t.addfile(link)
data.seek(0)
with tarfile.open(fileobj=data) as t:
    for member in t.getmembers():
        try: t.extract(member, filter="fully_trusted") if hasattr(tarfile, "fully_trusted_filter") else t.extract(member)
        except Exception as error: print(type(error).__name__)
try: found = open("link").read()
except OSError: found = None
found
"""
    assert run(source) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["inside", "secret"]
    assert not isinstance(run("import tarfile\ntarfile"), types.ModuleType)
