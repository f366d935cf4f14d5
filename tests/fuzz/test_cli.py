"""``safeexec audit`` as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

FEW = ("--case", "file-read-plain", "--case", "result-control-characters", "--case", "benign-word-count")


def audit(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "safeexec", "audit", *words], capture_output=True, text=True, timeout=110, cwd=cwd
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """One audit of a good and of a bad target, in all its forms."""
    folder = tmp_path_factory.mktemp("reports")
    done = audit(
        "--sandbox", "local", "--target", "weak", "--target", f"cmd:{sys.executable} -", *FEW, "--case", "tool-default-secret",
        "--json", "a.json", "--html", "a.html", "--sarif", "a.sarif", cwd=folder,
    )  # fmt: skip
    return done, folder


def test_an_escape_is_exit_code_1_and_shown_with_its_mechanism(
    reports: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = reports
    assert done.returncode == 1, done.stderr
    assert "ESCAPED file-read-plain" in done.stdout and "open of an absolute path" in done.stdout
    assert re.search(r"again: .*safeexec audit --target .* --case file-read-plain", done.stdout)
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout


def test_json_has_what_it_promises(reports: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    data: dict[str, Any] = json.loads((reports[1] / "a.json").read_text())
    assert list(data["targets"]) == ["local", "weak", f"cmd:{sys.executable} -"]
    for target in data["targets"].values():
        assert {"attacks", "contained", "escaped", "validated", "na", "broken", "benign", "benign_ok", "cases"} <= set(
            target
        )
        assert target["attacks"] == target["contained"] + target["escaped"] + target["na"] + target["broken"]
        assert len(target["cases"]) == target["attacks"] + target["benign"]
    local, weak, command = data["targets"].values()
    assert (local["attacks"], local["contained"], local["validated"], local["benign"], local["benign_ok"]) == (
        3,
        3,
        3,
        1,
        1,
    )
    assert (weak["escaped"], weak["validated"]) == (3, 3)
    assert not re.search("tk[0-9a-f]{24}", (reports[1] / "a.json").read_text() + (reports[1] / "a.html").read_text())
    assert (command["escaped"], command["na"]) == (1, 1)  # its environment is clean; it has no tools


def test_weak_alone_is_no_failure_and_never_never_fails(tmp_path: Path) -> None:
    assert audit("--target", "weak", *FEW).returncode == 0
    done = audit("--target", f"cmd:{sys.executable} -", *FEW, "--fail-on", "never", "--json", "-")
    assert done.returncode == 0 and json.loads(done.stdout)["schema"] == 1


def test_a_target_that_cannot_start_is_exit_code_4() -> None:
    done = audit("--target", "smolagents", "--python", "/bin/false", "--case", "file-read-plain")
    assert done.returncode == 4 and "could not be started" in done.stdout


def test_a_sandbox_that_cannot_start_says_why_without_a_traceback() -> None:
    done = audit("--sandbox", "local:nonsense=1", "--case", "file-read-plain")
    assert done.returncode == 4
    assert "it could not be started: the local sandbox has no option nonsense" in done.stdout
    assert "Traceback" not in done.stdout


TARGETS = """
import os
def number(): return 3
def fails(): raise OSError("no such device")
def silent(): return lambda code: ""
def ends(): os._exit(7)
def floods():
    while True: print("x" * 1000000)
"""


def test_a_target_that_runs_nothing_is_broken_and_contains_nothing(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(TARGETS)
    said = {
        "cmd:false": "exit code 1",
        "cmd:cat": "it ran no program",
        "cmd:/no/such/program": "No such file or directory",
        "odd:number": "'int' object is not callable",
        "odd:silent": "it ran no program",
        "odd:missing": "AttributeError: module 'odd' has no attribute 'missing'",
        "odd:fails": "OSError: no such device",
        "odd:ends": "ended with 7 while it ran the first probes",
        "odd:floods": "it floods its own output",
        "nowhere:x": "ModuleNotFoundError: No module named 'nowhere'",
    }
    words = [word for name in said for word in ("--target", name)]
    done = audit(*words, "--case", "file-read-plain", "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "cmd:cat: 1 cases" in done.stdout, "a name is no picture"
    for name, target in json.loads((tmp_path / "a.json").read_text())["targets"].items():
        assert (target["contained"], target["broken"]) == (0, 1), name
        assert said[name] in target["error"], (name, target["error"])
        assert "safeexec_fuzz" not in target["error"] and len(target["error"]) < 1000


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/proc/nowhere/a.json", "no directory /proc/nowhere"),
        ("/proc", "it is a directory"),
        ("no/such/a.html", "no directory no/such"),
    ],
)
def test_a_report_that_cannot_be_written_is_refused_before_anything_runs(name: str, said: str) -> None:
    done = audit("--target", "weak", *FEW, "--html" if name.endswith("html") else "--json", name)
    assert done.returncode == 2 and said in done.stderr and done.stdout == ""


def test_a_full_disk_does_not_take_the_results_along() -> None:
    done = audit("--target", "weak", *FEW, "--json", "/dev/full")
    assert done.returncode == 2 and "/dev/full could not be written: No space left" in done.stderr
    assert "2 of 2 attacks escaped" in done.stdout


def test_whoever_stops_reading_the_list_is_told_so_once() -> None:
    command = [sys.executable, "-m", "safeexec", "audit", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "safeexec: error: whoever read the output went away\n"
        assert process.wait(60) == 141


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--case", "nowhere"), "no case nowhere"),
        (("--category", "nowhere"), "no category nowhere"),
        (("--target", "nonsense"), "none of weak"),
        (("--sandbox", "nowhere"), "there is no sandbox 'nowhere'; installed: "),
        (("--sandbox", "local", "--sandbox", "local"), "named twice"),
        (("--target", "monty", "--python", "/no/such/python"), "not a file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], said: str) -> None:
    done = audit(*words)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_earlier_reports_are_put_side_by_side(
    reports: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    whole = json.loads((reports[1] / "a.json").read_text())
    for name in ("local", "weak"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**whole, "targets": {name: whole["targets"][name]}}))
    done = audit("--from", "local.json", "--from", "weak.json", "--html", "both.html", cwd=tmp_path)
    assert done.returncode == 0 and "3 of 3 attacks escaped" in done.stdout, done.stderr
    assert "<h2>local</h2>" in (tmp_path / "both.html").read_text()
    assert audit("--from", "local.json", "--from", "local.json", cwd=tmp_path).returncode == 2
    (tmp_path / "no.json").write_text("[]")
    assert "not a report" in audit("--from", "no.json", cwd=tmp_path).stderr
    for content, words in (
        (b"", "cut.json is no report"),
        (b"\xff", "cut.json is no report"),
        (b"[" * 100_000, "cut.json is no report"),
    ):
        (tmp_path / "cut.json").write_bytes(content)
        done = audit("--from", "local.json", "--from", "cut.json", cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    assert "--from: missing.json: No such file" in audit("--from", "missing.json", cwd=tmp_path).stderr


def test_listing_and_showing_run_nothing() -> None:
    done = audit("--category", "network", "--list")
    assert done.returncode == 0 and "net-tcp  [network] network:" in done.stdout
    assert "socket.create_connection" in audit("--case", "net-tcp", "--show").stdout


class Page(HTMLParser):
    """What of a page a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


HOSTILE = """</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b]52;c;aGk=\x07\u202e"""


def document() -> dict[str, Any]:
    """A report in which every text that a target may choose is hostile."""
    case = {
        "id": "x", "category": "files", "kind": "attack", "mechanism": HOSTILE, "reference": HOSTILE, "expected_effect": "canary", "outcome": "escaped",
        "effects": [{"name": "canary", "detail": HOSTILE}], "validated": True, "seconds": 1.0, "why": HOSTILE, "text": HOSTILE, "reproduce": HOSTILE, "code": HOSTILE,
    }  # fmt: skip
    target = {
        "version": HOSTILE, "error": "", "seconds": 1.0, "left_behind": [], "attacks": 1, "contained": 0, "escaped": 1, "validated": 1, "na": 0, "broken": 0,
        "benign": 0, "benign_ok": 0, "benign_na": 0, "cases": [case],
    }  # fmt: skip
    system = dict.fromkeys(("os", "kernel", "machine", "python"), "x")
    return {"date": "2026-01-01T00:00:00+00:00", "safeexec": "1", "system": system, "targets": {HOSTILE: target}}


def test_a_hostile_case_does_nothing_to_the_page() -> None:
    from safeexec_fuzz.report import page

    text = page.build(document())
    found = Page(text)
    assert found.tags.count("script") == 1 and "img" not in found.tags and "iframe" not in found.tags
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
    assert "default-src &#x27;none&#x27;" in text


def test_a_hostile_case_does_nothing_to_the_terminal_or_the_sarif() -> None:
    from rich.console import Console

    from safeexec_fuzz.report import sarif, table

    console = Console(record=True, width=200, file=open("/dev/null", "w"))
    table.show(document(), console)
    for text in (console.export_text(), json.dumps(sarif.build(document()), ensure_ascii=False)):
        assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text


def test_the_page_is_one_file(reports: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    text = (reports[1] / "a.html").read_text()
    found = Page(text)
    assert {"link", "iframe", "img"} & set(found.tags) == set() and found.tags.count("script") == 1
    assert "file-read-plain" in text and 'name="viewport"' in text and 'id="heat"' in text


def test_sarif_names_each_escape_and_its_rule(reports: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    data = json.loads((reports[1] / "a.sarif").read_text())
    assert data["version"] == "2.1.0" and len(data["runs"]) == 3
    for run in data["runs"]:
        rules = run["tool"]["driver"]["rules"]
        assert len({r["id"] for r in rules}) == len(rules) == len(run["results"])
        for result in run["results"]:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
            assert result["level"] == "error" and result["message"]["text"]
            assert not result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("/")
    assert [len(run["results"]) for run in data["runs"]] == [0, 3, 1]


def test_sarif_is_what_its_specification_says(reports: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    from sarif_pydantic import Sarif

    text = (reports[1] / "a.sarif").read_text()
    read = Sarif.model_validate_json(text)
    assert read.version == "2.1.0" and [len(run.results or ()) for run in read.runs] == [0, 3, 1]
    assert read.runs[1].tool.driver.name == "safeexec audit", text[:300]


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--sandbox", "local", "-c", "1"),
        ("audit", "--sandbox", "local", "--case", "file-read-plain"),
        pytest.param(("fuzz", "--sandbox", "local", "--stage", "loops", "--minutes", "0.1"), marks=pytest.mark.slow),
    ],
)
def test_nothing_is_imported_from_the_folder_that_it_is_started_in(words: tuple[str, ...], tmp_path: Path) -> None:
    """A downloaded folder may have a json.py in it; only Python's own -m would run that, so the command is started without."""
    mark = tmp_path / "mark"
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in {
        *sys.stdlib_module_names,
        "click",
        "safeexec",
        "safeexec_fuzz",
        "safeexec_backends",
        "RestrictedPython",
    }:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write(__name__)\n")
    if words[0] == "fuzz":
        words = (*words, "--findings", str(tmp_path / "found"))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "safeexec", *words], capture_output=True, text=True, timeout=110, cwd=folder
    )
    assert not mark.exists(), mark.read_text()
    assert done.returncode == 0, done.stdout + done.stderr
