"""zipfile.Path and warnings.deprecated, which are written anew and run as the program's code; texts of what stays refused."""

import sys
import zipfile

import pytest

from safeexec.guest import Refused

ZIP = """
import zipfile
with zipfile.ZipFile("a.zip", "w") as archive:
    for name in ("d/x.txt", "b.txt", "d/e/f.csv"): archive.writestr(name, name.upper())
root = zipfile.Path("a.zip")
d = root / "d"
"""


@pytest.mark.parametrize(
    "expression",
    [
        "[str(p) for p in root.iterdir()], [p.name for p in d.iterdir()], repr(d), str(root), hash(root) == hash(root)",
        "(d / 'x.txt').read_text(), root.joinpath('d', 'e', 'f.csv').read_bytes(), (root / 'b.txt').open().readline()",
        "d.is_dir(), d.is_file(), (root / 'b.txt').is_file(), (root / 'no').exists(), (d / 'e').exists(), (d / 'e').at",
        "str(d.parent), (d / 'e' / 'f.csv').parent.at, (d / 'e' / 'f.csv').suffix, (d / 'x.txt').stem, root.name, d.name, str(d.filename)",
        "zipfile.Path(zipfile.ZipFile('a.zip'), 'b.txt').read_text(encoding='ascii')",
        pytest.param(
            "sorted(p.at for p in root.glob('**/*.csv')), [p.at for p in root.rglob('*.txt')], [p.at for p in d.glob('*.txt')], (d / 'x.txt').match('*.txt')",
            marks=pytest.mark.skipif(not hasattr(zipfile.Path, "glob"), reason="n/a: new in 3.12"),
        ),
    ],
)
def test_a_path_in_an_archive(run, expression):
    found = run(f"{ZIP}{expression}")
    space = {}
    exec(ZIP, space)
    assert found == eval(expression, space)


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("(root / 'no').read_text()", FileNotFoundError),
        ("d.open()", IsADirectoryError),
        ("(root / 'b.txt').iterdir()", ValueError),
        ("zipfile.Path('/etc/passwd')", PermissionError),
    ],
)
def test_errors_of_a_path_in_an_archive(run, expression, error):
    with pytest.raises(error):
        run(f"{ZIP}{expression}")


def test_writing_by_a_path_in_an_archive(run):
    source = """
import zipfile
with zipfile.ZipFile("w.zip", "w") as archive:
    with (zipfile.Path(archive) / "n.txt").open("w") as file: file.write("new")
zipfile.Path("w.zip", "n.txt").read_text()
"""
    assert run(source) == "new"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="n/a: new in 3.13")
def test_deprecated_functions_and_classes_warn(run):
    source = """
import asyncio, warnings
@warnings.deprecated("old f")
def f(a):
    "doc"
    return a
@warnings.deprecated("old A", category=FutureWarning)
class A:
    def __init__(self, x): self.x = x
@warnings.deprecated("silent", category=None)
class S: ...
@warnings.deprecated("old g")
async def g(): return 3
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    first = f(1), f.__deprecated__, f.__doc__, f.__name__, A(2).x, S.__deprecated__, asyncio.iscoroutinefunction(g)
    class B(A): ...
    B(3)
    S()
first, [(str(w.message), w.category.__name__, w.lineno) for w in seen], A.__deprecated__
"""
    assert run(source) == (
        (1, "old f", "doc", "f", 2, "silent", True),
        [("old f", "DeprecationWarning", 16), ("old A", "FutureWarning", 16), ("old A", "FutureWarning", 17)],
        "old A",
    )


@pytest.mark.skipif(sys.version_info < (3, 13), reason="n/a: new in 3.13")
@pytest.mark.parametrize("target", ["json.JSONEncoder", "str", "len", "json.dumps"])
def test_nothing_of_the_librarys_is_marked(run, target):
    """The library's own decorator sets attributes of whatever it is given."""
    import json

    before = dict(vars(json.JSONEncoder)), dict(vars(json.dumps))
    try:
        run(f"import json, warnings\nwarnings.deprecated('x')({target})")
    except (Refused, AttributeError, TypeError):
        pass
    assert (dict(vars(json.JSONEncoder)), dict(vars(json.dumps))) == before


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("class A:\n    __module__ = 'm'\n    def __init__(self): self.x = 1\nA()", "leave that out"),
        ("def f(): ...\nexec(f.__code__)", "call the function"),
        ("def f(): ...\neval(f.__code__)", "call the function"),
    ],
)
def test_what_stays_refused_says_why(run, source, word):
    with pytest.raises((AttributeError, TypeError), match=word):
        run(source)


def test_a_database_is_attached_by_a_path_that_stays_what_it_is(run):
    """What is behind ``..`` may be another folder when SQLite opens it: a thread exchanges links."""
    source = """
import os, sqlite3
sqlite3.connect("o.db").execute("create table t(a)")
os.makedirs("a/b", exist_ok=True)
db = sqlite3.connect(":memory:")
db.execute("attach 'o.db' as o")
found = db.execute("select count(*) from o.t").fetchone()
try: db.execute("attach 'a/b/../../o.db' as p")
except sqlite3.DatabaseError as error: found += (str(error),)
found
"""
    assert run(source) == (0, "not authorized")


def test_the_state_of_an_object_can_be_asked(run):
    source = """
class A:
    def __init__(self): self.x = 1
class S:
    __slots__ = ("y",)
class T(str): ...
class G:
    def __getstate__(self): return "own"
class H(G):
    def __getstate__(self): return super().__getstate__() + "!"
s = S()
s.y = 2
t = T("t")
t.z = 3
A().__getstate__(), object().__class__ is object, s.__getstate__(), t.__getstate__(), G().__getstate__(), H().__getstate__()
"""
    assert run(source) == ({"x": 1}, True, (None, {"y": 2}), {"z": 3}, "own", "own!")


def test_the_state_is_not_what_a_class_lists(run):
    """CPython's own reads each name in ``__slotnames__``."""
    source = """
class A:
    __slotnames__ = ["__reduce_ex__", "__class__", "__init_subclass__"]
    __slots__ = ("y",)
class B(A): ...
a, b = A(), B()
a.y = 1
a.__getstate__(), b.__getstate__()
"""
    assert run(source) == ((None, {"y": 1}), None)


def test_a_mail_with_a_file_is_written(run):
    """Its headers are copied on the way when the text is not ASCII."""
    source = """
from email.message import EmailMessage
m = EmailMessage()
m["Subject"] = "Hé"
m.set_content("body ü")
m.add_attachment(b"\\0\\1", maintype="application", subtype="octet-stream", filename="f.bin")
m.as_string().count("Content-Type"), m.as_bytes() == m.as_bytes()
"""
    assert run(source) == (3, True)
