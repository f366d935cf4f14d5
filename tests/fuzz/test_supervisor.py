"""The supervisor cannot be fooled or hurt from below, and calls things by their names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from safeexec.testing.base import eventually
from safeexec_fuzz import audit, cases, targets

from .conftest import Run

WEAK = targets.target("weak")


def case(identity: str, code: str, **more: object) -> cases.Case:
    return cases.Case(identity, "test", "attack", "", (cases.Step(code),), effect="canary", **more)  # type: ignore[arg-type]


FORGED_REPORT = """
import os, json, gc, sys
for f in sys._current_frames().values():
    while f:
        host = f.f_locals.get("self")
        if hasattr(host, "send"):
            host.send({"t": "end", "step": 0})
            host.send({"t": "done"})
            host.send({"t": "report", "nonce": "", "steps": [], "calls": [], "changed": [], "poison": [], "files": [], "broken": ""})
            print(open("@CANARY@").read())
            break
        f = f.f_back
"""


def test_a_report_without_the_nonce_is_a_forgery(run: Run) -> None:
    assert "forgery" in dict(run(WEAK, case("forge", FORGED_REPORT))["forge"].effects)


def test_a_flood_of_the_hosts_own_streams_is_stopped(run: Run) -> None:
    code = "import os\nwhile True:\n    os.write(1, b'x' * 1000000)"
    assert "output" in dict(run(WEAK, case("flood", code))["flood"].effects)


def test_the_next_case_goes_on_after_the_host_died(run: Run) -> None:
    verdicts = run(WEAK, "proc-abort", "proc-kill-group", "file-read-plain", "benign-arithmetic", jobs=1)
    assert [v.outcome for v in verdicts.values()] == ["escaped"] * 3 + ["ok"]


def test_the_next_case_goes_on_after_the_supervisor_was_killed(
    run: Run, ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(ground))
    verdicts = run(WEAK, case("parricide", "import os\nos.kill(os.getppid(), 9)"), "file-read-plain", jobs=1)
    assert dict(verdicts["parricide"].effects)["process"].startswith("the supervisor")
    assert verdicts["file-read-plain"].outcome == "escaped"
    assert not list(ground.iterdir()), "its folder is removed by who started it"


def test_temporary_files_with_a_long_path_hide_no_attack(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket has a name of some hundred bytes; below a longer one no case could be set up, and each counted as an escape."""
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    verdicts = run(WEAK, "net-unix", "benign-arithmetic")
    assert "network" in dict(verdicts["net-unix"].effects)
    assert verdicts["benign-arithmetic"].outcome == "ok"


def test_the_longest_path_that_is_used_holds_a_socket(run: Run, ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = ground / ("d" * (audit._SOCKET_PATH - audit._BELOW - len(str(ground)) - 1))
    longest.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(longest))
    assert audit._ground() == str(longest)
    assert "network" in dict(run(WEAK, "net-unix")["net-unix"].effects)


# A supervisor ends whatever it finds below its process: not for the process of the tests, which has daemons of its own.
FULL = """
import errno, json, os, sys
from safeexec_fuzz import audit, cases, processes, supervisor, targets

def full(case):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def verdict(code):
    return lane.run(cases.Case("x", "test", "attack", "", (cases.Step(code),), effect="canary"))

processes.become_subreaper()
lane, world = supervisor.Lane(targets.target("weak").data(), audit.LIMITS), supervisor.World
supervisor.World = full
found = [verdict("1")]
supervisor.World = world
found.append(verdict("open('@CANARY@').read()"))
lane.drop(False)
print(json.dumps(found))
"""


def test_a_case_that_could_not_be_set_up_is_broken_and_no_escape() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], stdout=subprocess.PIPE, check=True, timeout=60)
    first, second = json.loads(done.stdout)
    assert first["outcome"] == "broken" and "No space left" in first["why"]
    assert second["outcome"] == "escaped"  # and the next one is judged


def test_a_target_that_cannot_start_is_broken_not_contained() -> None:
    outcome = audit.run(targets.target("smolagents", "/bin/false"), cases.load(("attack",))[:3], jobs=1)
    assert outcome.broken and [v.outcome for v in outcome.verdicts] == ["broken"] * 3
    assert outcome.count("attack", "contained") == 0


def test_a_need_that_is_not_met_is_not_applicable(run: Run) -> None:
    verdict = run(targets.target("subprocess"), "tool-default-secret", "iso-other-session-by-gc")
    assert {v.outcome for v in verdict.values()} == {"na"}


def test_a_command_is_attacked(run: Run) -> None:
    verdicts = run(targets.target(f"cmd:{sys.executable} -"), "file-read-plain", "loop-while-true", "benign-word-count")
    assert [verdicts[i].outcome for i in ("file-read-plain", "loop-while-true", "benign-word-count")] == [
        "escaped",
        "contained",
        "ok",
    ]


def test_a_factory_is_attacked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ex.py").write_text(
        "import contextlib, io\n"
        "def make():\n"
        "    def run(code):\n"
        "        out = io.StringIO()\n"
        "        with contextlib.redirect_stdout(out):\n"
        "            exec(code, {})\n"
        "        return out.getvalue(), None\n"
        "    return run\n"
        "def broken():\n"
        "    raise RuntimeError('no licence')\n"
    )
    monkeypatch.chdir(tmp_path)
    verdicts = run(targets.target("ex:make"), "file-read-plain", "benign-word-count")
    assert verdicts["file-read-plain"].outcome == "escaped" and verdicts["benign-word-count"].outcome == "ok"
    outcome = audit.run(targets.target("ex:broken"), [case("x", "1")], jobs=1)
    assert "no licence" in outcome.broken and outcome.verdicts[0].outcome == "broken"


@pytest.mark.parametrize("text", ["nonsense", "cmd:", "cmd:'unclosed", "a b:c", ":x", "module:"])
def test_a_target_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(targets.TargetError):
        targets.target(text)


def test_settings_of_a_sandbox() -> None:
    assert targets.sandbox("wasm:workers=0,isolation=session").options == {
        "sandbox": "wasm",
        "settings": {"workers": 0, "isolation": "session"},
    }
    for text in ("wasm:workers", "wa sm", "wasm:=3"):
        with pytest.raises(targets.TargetError):
            targets.sandbox(text)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("processes", [2, 3, 5], ids=["a supervisor starts", "it starts", "all run"])
def test_an_audit_that_is_ended_leaves_nothing(how: signal.Signals, processes: int, ground: Path) -> None:
    """No process, told by its environment, which they all inherit, whoever their parents are by now; and no folder."""
    mark = f"AUDIT_MARK_{os.getpid()}_{how}_{processes}"
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-m",
            "safeexec",
            "audit",
            "--target",
            "weak",
            # More than two supervisors have at once: one that starts late still finds the other at work.
            *(
                part
                for name in ("while-true", "finally", "for-count", "c-deque", "c-max-count", "c-in-count")
                for part in ("--case", f"loop-{name}")
            ),
            "--jobs",
            "2",
        ],
        env={**os.environ, mark: "1", "TMPDIR": str(ground)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert eventually(lambda: len(marked(mark)) >= processes)  # the command, supervisors and their hosts
        process.send_signal(how)
        process.wait(30)
        assert eventually(lambda: not marked(mark), 60)
        assert not list(ground.iterdir())
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def marked(mark: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if mark.encode() in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(entry)
            except OSError:
                continue
    return found
