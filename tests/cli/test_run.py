from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Command, process


def test_shows_output_then_the_value(cli: Command) -> None:
    ran = cli("run", "-c", "print('hi', end=''); 40 + 2")
    assert (ran.code, ran.out, ran.err) == (0, "hi\n42\n", "")


def test_runs_a_file_standard_input_or_a_pipe(cli: Command) -> None:
    Path("program.py").write_text("print(1)\n'text'")
    assert cli("run", "program.py").out == "1\ntext\n"
    assert cli("run", "-", stdin=b"print(2)").out == "2\n"
    assert cli("run", stdin=b"print(3)").out == "3\n"


def test_a_pipe_gets_the_output_and_a_string_value_unchanged(cli: Command) -> None:
    ran = cli("run", "-c", "print('\\x1b[31mred\\x1b[0m\\r\\n\\u202e'); 'v\\x1b]0;t\\x07'")
    assert ran.out == "\x1b[31mred\x1b[0m\r\n\u202e\nv\x1b]0;t\x07\n"


def test_a_pipe_gets_other_values_neutralised(cli: Command) -> None:
    ran = cli("run", "-c", "class A:\n  def __repr__(self): return 'x\\x1b]52;c;aGk=\\x07y\\u202e'\nA()")
    assert ran.out == "x\\x1b]52;c;aGk=\\x07y\\u202e\n"


def test_a_pipe_gets_no_line_end_that_was_not_written(cli: Command) -> None:
    assert cli("run", "-c", "print('a', end='')").out == "a"


def test_streams_are_kept_apart(cli: Command) -> None:
    ran = cli("run", "-c", "import sys; print('out'); print('err', file=sys.stderr)")
    assert (ran.out, ran.err) == ("out\n", "err\n")


def test_output_arrives_while_the_program_runs() -> None:
    with process("run", "-c", "print('first')\nimport time\ntime.sleep(60)", stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"first\n"
        assert child.poll() is None
        child.terminate()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1", 0),
        ("1/0", 1),
        ("def f(:", 1),
        ("import sys; sys.exit()", 0),
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(3)", 1),
        ("raise SystemExit('why')", 1),
        ("import os; os._exit(0)", 1),
        ("while True: pass", 3),
        ("raise MemoryError", 3),
        ("while True: print('x' * 1000)", 3),
    ],
)
def test_exit_codes(cli: Command, code: str, expected: int) -> None:
    assert cli("run", "--timeout", "1.5", "--output-limit", "10K", "-c", code).code == expected


def test_an_error_shows_the_users_lines_under_the_files_name(cli: Command) -> None:
    Path("broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    ran = cli("run", "broken.py")
    assert ran.code == 1
    assert ran.err.startswith('Traceback (most recent call last):\n  File "broken.py", line 4, in <module>\n')
    assert ran.err.endswith("ZeroDivisionError: division by zero\n")


def test_what_was_written_before_a_limit_is_kept(cli: Command) -> None:
    ran = cli("run", "--timeout", "0.3", "-c", "print('before')\nwhile True: pass")
    assert (ran.code, ran.out) == (3, "before\n")
    assert "TimeoutError: the step ran longer than 0.3 s" in ran.err
    assert "hint: --timeout" in ran.err


def test_cut_output_is_announced(cli: Command) -> None:
    ran = cli("run", "--output-limit", "10", "-c", "print('a' * 50)")
    assert (ran.code, ran.out) == (0, "a" * 10)
    assert "cut at a limit" in ran.err and "--output-limit" in ran.err


def test_sys_exit_with_a_message_prints_it(cli: Command) -> None:
    ran = cli("run", "-c", "import sys; sys.exit('no \\x1b[2J input')")
    assert (ran.code, ran.err) == (1, "no \\x1b[2J input\n")


def test_a_timeout_over_the_default_step_limit_is_honoured(cli: Command) -> None:
    from safeexec.cli.options import Options

    options = Options("plain", 1000.0, None, None, (), (), (), (), False, None)
    limits = options.policy().limits
    assert limits.time == 1000.0 and limits.wall is not None and limits.wall > 1000.0


def test_options_reach_the_policy() -> None:
    from safeexec import DEFAULT_IMPORTS
    from safeexec.cli.options import Options

    policy = Options("plain", None, 2**28, 5, ("numpy.*",), ("msgpack",), (), (), True, None).policy()
    assert policy.imports == (*DEFAULT_IMPORTS, "numpy.*")
    assert (policy.packages, policy.require, policy.limits.memory, policy.limits.output) == (("msgpack",), (), 2**28, 5)
    default = Options("plain", None, None, None, (), (), (), (), False, None).policy()
    assert (default.imports, default.require) == (None, None)


def test_files_are_placed_under_their_own_names(cli: Command) -> None:
    Path("deep").mkdir()
    Path("deep/data.csv").write_text("a,b\n")
    assert cli("run", "--file", "deep/data.csv", "-c", "open('data.csv').read()").out == "a,b\n"


def test_tools_of_the_current_directory_are_called_on_the_host(cli: Command) -> None:
    Path("my_cli_tools.py").write_text(
        "class box:\n    @staticmethod\n    def double(n: int) -> int:\n        return 2 * n\n"
    )
    ran = cli("run", "--tool", "my_cli_tools:box.double", "-c", "double(21)")
    assert (ran.code, ran.out) == (0, "42\n")
    assert sys.path[-1] == str(Path.cwd()), "the current directory must not come before the installed packages"


def test_an_installed_tool_takes_nothing_from_the_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A checkout may hold a file of any name, such as that of a library which an installed module uses where it is there."""
    from safeexec.cli.options import load_tool

    installed, checkout = tmp_path / "installed", tmp_path / "checkout"
    installed.mkdir()
    checkout.mkdir()
    (installed / "rooms_tool.py").write_text(
        "try:\n    import rooms_optional\nexcept ImportError:\n    rooms_optional = None\ndef fast() -> bool:\n    return rooms_optional is not None\n"
    )
    (checkout / "rooms_optional.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])
    monkeypatch.chdir(checkout)
    assert load_tool("rooms_tool:fast")() is False
    assert "rooms_optional" not in sys.modules and str(checkout) not in sys.path


def test_made_files_and_displays_are_listed_and_saved(cli: Command) -> None:
    code = """
open('report.txt', 'w').write('made')
class Rich:
    def _repr_png_(self): return b'PNG'
    def _repr_html_(self): return '<script>alert(1)</script>'
class Drawing:
    def _repr_svg_(self): return '<svg onload="x()"></svg>'
display('plain text')
display(Rich())
display(Drawing())
"""
    listed = cli("run", "-c", code)
    assert "plain text" in listed.out
    assert "safeexec: display 2: text/html (25 bytes), image/png (3 bytes)" in listed.err
    assert "safeexec: file report.txt (4 bytes)" in listed.err
    assert "--save-files DIR" in listed.err
    assert list(Path.cwd().iterdir()) == []
    ran = cli("run", "--save-files", "out", "-c", code)
    assert ran.code == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "display-2.html", "display-2.png", "display-3.svg.html", "report.txt",
    ]  # fmt: skip
    assert Path("out/report.txt").read_text() == "made"
    assert Path("out/display-2.png").read_bytes() == b"PNG"
    for page in ("display-2.html", "display-3.svg.html"):
        text = Path("out", page).read_text()
        assert '<iframe sandbox=""' in text and "<script" not in text and "<svg" not in text


def test_a_saved_display_does_not_replace_the_programs_file_or_follow_a_link(cli: Command, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    Path("out").mkdir()
    Path("out/display-1.png").symlink_to(target)
    code = "class P:\n  def _repr_png_(self): return b'PNG'\ndisplay(P())"
    assert cli("run", "--save-files", "out", "-c", code).code == 0
    assert target.read_text() == "keep"
    assert Path("out/display-1.png").read_bytes() == b"PNG" and not Path("out/display-1.png").is_symlink()
    ran = cli("run", "--save-files", "both", "-c", "open('Display-1.PNG', 'w').write('own')\n" + code)
    assert ran.code == 0
    assert Path("both/Display-1.PNG").read_text() == "own"
    assert Path("both/display-1-1.png").read_bytes() == b"PNG"


def test_displays_survive_a_step_that_loses_its_files(cli: Command) -> None:
    code = "class P:\n  def _repr_png_(self): return b'PNG'\ndisplay(P())\nopen('x', 'w').write('1')\nwhile True: pass"
    ran = cli("run", "--timeout", "0.5", "--save-files", "out", "-c", code)
    assert ran.code == 3
    assert [path.name for path in Path("out").iterdir()] == ["display-1.png"]


@pytest.mark.parametrize("name", ["a:b", "nul", "x\u202e", "tab\\there", "esc\x1b]0;x\x07"])
def test_unsafe_names_are_refused_and_nothing_is_saved(cli: Command, name: str) -> None:
    ran = cli("run", "--save-files", "out", "-c", f"open({name!r}, 'w').write('x'); open('good', 'w').write('x')")
    assert ran.code == 1
    assert "not everything could be saved" in ran.err
    assert list(Path("out").iterdir()) == []
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err)


def test_links_are_not_files_that_are_saved(cli: Command) -> None:
    ran = cli(
        "run", "--save-files", "out", "-c", "import os; os.symlink('/etc/passwd', 'p'); open('ok', 'w').write('1')"
    )
    assert ran.code == 0
    assert [path.name for path in Path("out").iterdir()] == ["ok"]


def test_all_files_are_saved_however_many(cli: Command) -> None:
    Path("given.txt").write_text("given")
    code = "for i in range(2100): _ = open(f'f{i}', 'w').write('x')"
    ran = cli("run", "--file", "given.txt", "--save-files", "out", "-c", code)
    assert ran.code == 0, ran.err
    assert {path.name for path in Path("out").iterdir()} == {f"f{i}" for i in range(2100)}


USAGE = {
    "both": (["run", "x.py", "-c", "1"], "not both"),
    "missing file": (["run", "missing.py"], "missing.py: No such file"),
    "folder": (["run", "."], "Is a directory"),
    "memory": (["run", "--memory", "lots", "-c", "1"], "'lots' is not a size"),
    "memory without unit": (["run", "--memory", "256", "-c", "1"], "write e.g. 256M"),
    "timeout": (["run", "--timeout", "nan", "-c", "1"], "not a number of seconds"),
    "negative": (["run", "--timeout", "-1", "-c", "1"], "not a number of seconds"),
    "tool form": (["run", "--tool", "x", "-c", "1"], "module:function"),
    "tool module": (["run", "--tool", "no_such_module:f", "-c", "1"], "no_such_module"),
    "tool name": (["run", "--tool", "json:nothing", "-c", "1"], "there is no 'nothing'"),
    "tool not callable": (["run", "--tool", "json:__name__", "-c", "1"], "callable"),
    "two tools": (["run", "--tool", "json:loads", "--tool", "json:loads", "-c", "1"], "two tools"),
    "file": (["run", "--file", "missing.csv", "-c", "1"], "missing.csv does not exist"),
    "import": (["run", "--allow-import", "a b", "-c", "1"], "not a module name"),
    "config": (["run", "--config", "missing.toml", "-c", "1"], "no file missing.toml"),
    "command": (["fly"], "No such command 'fly'"),
    "option": (["run", "--fly"], "'safeexec run --help'"),
    "save": (["run", "--save-files", "/dev/null/x", "-c", "1"], "--save-files"),
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_one_line_and_exit_code_2(cli: Command, case: str) -> None:
    args, expected = USAGE[case]
    ran = cli(*args)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("safeexec: error: ") and ran.err.count("\n") == 1
    assert expected in ran.err


def test_two_files_of_one_name_are_refused(cli: Command) -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x.csv").write_text("")
    ran = cli("run", "--file", "a/x.csv", "--file", "b/x.csv", "-c", "1")
    assert ran.code == 2 and "rename one" in ran.err


@pytest.mark.parametrize(("name", "words"), [("nosuch", "there is no sandbox 'nosuch'"), ("broken", "daemon")])
def test_a_sandbox_that_is_not_there_is_exit_code_4(cli: Command, name: str, words: str) -> None:
    ran = cli("run", "--sandbox", name, "-c", "1")
    assert ran.code == 4
    assert words in ran.err and ran.err.count("\n") == 1 and "\x1b" not in ran.err


def test_source_encodings(cli: Command) -> None:
    Path("bom.py").write_bytes(b"\xef\xbb\xbfprint('bom')")
    Path("latin.py").write_bytes("# -*- coding: latin-1 -*-\nprint('caf\xe9')".encode("latin-1"))
    Path("bad.py").write_bytes(b"print('caf\xe9')")
    Path("odd.py").write_bytes(b"# coding: klingon\n1")
    assert cli("run", "bom.py").out == "bom\n"
    assert cli("run", "latin.py").out == "café\n"
    for name in ("bad.py", "odd.py"):
        ran = cli("run", name)
        assert ran.code == 2 and "UTF-8" in ran.err and "utf-8-sig" not in ran.err and ran.err.count("\n") == 1


def test_a_program_on_the_command_line_is_what_was_typed_in_any_locale() -> None:
    import os

    from tests.cli.conftest import ROOT

    for program, code, out in (("print('é☃')".encode(), 0, "é☃\n"), (b"print('caf\xe9')", 2, "")):
        words = [sys.executable, "-m", "tests.cli.launch", "run", "--sandbox", "plain", "-c", program]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(words, env=env, capture_output=True, timeout=60)
        assert (done.returncode, done.stdout.decode()) == (code, out)
        assert done.stderr.count(b"\n") == (code == 2) and (b"-c is not text in UTF-8" in done.stderr) is (code == 2)


def test_a_program_without_end_is_refused(cli: Command) -> None:
    ran = cli("run", "/dev/zero")
    assert ran.code == 2 and "larger than 16 MiB" in ran.err


def test_a_reader_that_goes_away_ends_the_program() -> None:
    with process("run", "-c", "while True: print('y' * 100)", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        assert child.stdout.read(10) == b"y" * 10
        child.stdout.close()
        err = child.stderr.read().decode()
    assert child.returncode == 141
    assert err.count("\n") == 1 and "went away" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="n/a: the system has no /dev/full")
@pytest.mark.parametrize("args", [["-c", "print(1)"], ["--json", "-c", "1"]])
def test_a_full_disk_is_one_line(args: list[str]) -> None:
    with Path("/dev/full").open("wb") as full, process("run", *args, stdout=full, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        err = child.stderr.read().decode()
    assert child.returncode == 1
    assert err.count("\n") == 1 and "No space left" in err


def test_closed_standard_streams_do_no_harm() -> None:
    shell = f"exec {sys.executable} -m tests.cli.launch run -c 'print(1); 2' >&- 2>&- <&-"
    import os

    from tests.cli.conftest import ROOT

    done = subprocess.run(["sh", "-c", shell], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
