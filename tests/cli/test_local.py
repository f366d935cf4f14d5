"""The command line with the ``local`` sandbox, as users have it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from safeexec import BackendUnavailable, Executor
from tests.cli.conftest import Command, process


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch, clean: None) -> None:
    try:
        Executor("local").close()
    except BackendUnavailable as error:
        pytest.skip(f"the local sandbox cannot run here: {error}")
    monkeypatch.setenv("SAFEEXEC_SANDBOX", "local")


def test_a_program_with_data_and_a_file_it_makes(cli: Command) -> None:
    Path("data.csv").write_text("n\n1\n2\n")
    Path("program.py").write_text(
        "import csv\n"
        "with open('data.csv') as f:\n"
        "    total = sum(int(row['n']) for row in csv.DictReader(f))\n"
        "with open('total.txt', 'w') as f:\n"
        "    f.write(str(total))\n"
        "total\n"
    )
    ran = cli("run", "program.py", "--file", "data.csv", "--save-files", "out")
    assert (ran.code, ran.out) == (0, "3\n")
    assert Path("out/total.txt").read_text() == "3"


def test_a_refused_import_says_what_to_do_and_names_no_class_of_ours(cli: Command) -> None:
    ran = cli("run", "-c", "import requests")
    assert ran.code == 1
    assert "\nImportError: Import of 'requests' is not allowed; allowed: " in ran.err
    assert ran.err.count("Import of 'requests'") == 1
    assert "hint: --allow-import M" in ran.err


def test_files_and_folders_are_moved_between_the_working_directory_and_tmp(cli: Command) -> None:
    ran = cli(
        "run",
        "-c",
        "import os, shutil, tempfile\n"
        "os.makedirs('m/n'); open('m/n/o', 'w').write('deep')\n"
        "away = shutil.move('m', tempfile.mkdtemp())\n"
        "back = shutil.move(away, 'back')\n"
        "os.path.exists('m'), os.path.exists(away), open('back/n/o').read()",
    )
    assert (ran.code, ran.out) == (0, "(False, False, 'deep')\n")


def test_limits(cli: Command) -> None:
    assert cli("run", "--timeout", "0.3", "-c", "while True: pass").code == 3
    assert cli("run", "--memory", "64M", "-c", "bytearray(2**30)").code == 3


def test_what_it_cannot_honour_is_wrong_usage(cli: Command) -> None:
    ran = cli("run", "--package", "numpy", "-c", "1")
    assert ran.code == 2 and "installs nothing" in ran.err and ran.err.count("\n") == 1


def test_the_host_stays_out_of_reach(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("secret.txt").write_text("canary")
    monkeypatch.setenv("SAFEEXEC_CANARY", "canary")
    where = str(Path("secret.txt").resolve())
    for code in (f"open({where!r}).read()", "import os; dict(os.environ)", "import os; os.listdir('/')"):
        ran = cli("run", "-c", code)
        assert "canary" not in ran.out


def test_a_repl(cli: Command) -> None:
    ran = cli("repl", stdin=b"x = 2\nclass A:\n    def f(self):\n        return x * 21\n\nA().f()\n1/0\nexit(1)\n")
    assert (ran.code, ran.out) == (1, "42\n")
    assert "ZeroDivisionError" in ran.err


def test_doctor(cli: Command) -> None:
    ran = cli("doctor", "--sandbox", "local", "--json")
    assert ran.code == 0
    walls = ran.json["sandboxes"][0]["walls"]
    assert walls["language"]["active"] is True and walls["rlimits"]["active"] is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind(number: signal.Signals) -> None:
    code = "print('begin')\nwhile True: pass"
    with process("run", "--timeout", "100", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        task = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        zygotes = [int(pid) for pid in task.read_text().split()]
        assert len(zygotes) == 1
        cells = [int(pid) for pid in Path(f"/proc/{zygotes[0]}/task/{zygotes[0]}/children").read_text().split()]
        assert cells
        ends = [os.pidfd_open(pid) for pid in zygotes + cells]
        child.send_signal(number)
        child.wait()
    import select

    for end in ends:
        assert select.select([end], [], [], 10)[0], "a process of the sandbox still lives"
        os.close(end)
    if number != signal.SIGKILL:
        assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
