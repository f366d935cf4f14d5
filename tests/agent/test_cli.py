"""``safeexec agent``, typed as a user would."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from safeexec.cli.main import main
from tests.agent.loopback import completion, events, serving

SCRIPT = """Thought: count.
<code>
total = sum(range(10))
print("total", total, "\\x1b]0;x\\x07")
open("out.txt", "w").write(str(total))
total
</code>
---
Thought: answer.
<code>
final_answer(f"The total is {total}")
</code>
"""
LOOP = "<code>\nprint('looping', flush=True)\nwhile True: pass\n</code>\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.md").write_text(SCRIPT)
    (tmp_path / "loop.md").write_text(LOOP)
    return tmp_path


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.endswith(("_KEY", "_TOKEN")) and not k.startswith("SAFEEXEC_")}
    return {**kept, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100", "TERM": "xterm-256color"}


def agent(folder: Path, *arguments: str, given: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "safeexec", "agent", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment(), **extra},
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
    )


def test_trace_answer_files_and_cost(folder: Path) -> None:
    done = agent(
        folder,
        "Sum.",
        "--model",
        "script:t.md",
        "--sandbox",
        "local",
        "--save-files",
        "made",
        "--save-run",
        "run.json",
        "--verbose",
    )
    assert done.returncode == 0, done.stderr
    for part in (
        "Sum.",
        "Step 1",
        "Executing parsed code:",
        "total 45 \\x1b]0;x\\x07",
        "Out: 45",
        "Final answer: The total is 45",
        "Total: ",
        "Thought: count.",
    ):
        assert part in done.stdout, part
    assert "\x1b" not in done.stdout + done.stderr
    assert (folder / "made" / "out.txt").read_text() == "45" and "saved made/out.txt" in done.stderr
    assert json.loads((folder / "run.json").read_text())["format"] == 1


def test_json_is_one_event_a_line(folder: Path) -> None:
    done = agent(folder, "Sum.", "--model", "script:t.md", "--sandbox", "wasm", "--json")
    lines: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["event"] for line in lines] == [
        "run_start",
        "step_start",
        "code",
        "output",
        "step_end",
        "step_start",
        "code",
        "step_end",
        "final",
    ]
    assert lines[-1]["output"] == "The total is 45" and lines[-1]["state"] == "success"
    assert lines[4]["step"]["action_output"] == 45 and lines[0]["sandbox"] == "wasm"
    assert done.stdout.isascii() and done.returncode == 0


def test_approve_asks_and_tells_the_model(folder: Path) -> None:
    (folder / "t.md").write_text(
        "---\n".join([SCRIPT.split("---\n")[0]] * 2 + ["<code>\nfinal_answer('total' in globals())\n</code>\n"])
    )
    done = agent(folder, "Sum.", "--model", "script:t.md", "--sandbox", "local", "--approve", given="n\nnot today\ny\n")
    assert done.returncode == 0 and done.stderr.count("Run this code?") == 3
    assert "Final answer: False" in done.stdout and "did not let this code run: not today" in done.stdout
    done = agent(folder, "Sum.", "--model", "script:t.md", "--sandbox", "local", "--approve", "--max-steps", "1")
    assert "total 45" not in done.stdout and done.returncode == 3, "without an answer nothing may run"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x"], 2, "Missing option '--model'"),
        (["x", "--model", "gpt"], 2, "KIND:NAME"),
        (["x", "--model", "magic:x"], 2, "there are openai, hf, ollama, litellm and script"),
        (["x", "--model", "script:none.md"], 2, "cannot be read"),
        (["x", "--model", "openai:gpt-4o"], 2, "OPENAI_API_KEY"),
        (["x", "--model", "script:t.md", "--tool", "nowhere:f"], 2, "No module named 'nowhere'"),
        (["x", "--model", "script:t.md", "--tool", "json:dumps"], 2, "tool 'dumps'"),
        (["x", "--model", "script:t.md", "--sandbox", "paper"], 4, "paper"),
        (["x", "--model", "script:t.md", "--tool", "nosuch"], 2, "none of web_search, "),
        (["x", "--model", "script:t.md", "--helper", "none.py"], 2, "none.py"),
        (["x", "--model", "script:t.md", "--helper", "loop.md"], 2, "helper 'loop.md'"),
        (["x", "--model", "script:t.md", "--helper", "broken.py"], 2, "helper 'broken.py' is not Python"),
        (["x", "--model", "script:t.md", "--file", "none.csv"], 2, "--file: none.csv does not exist"),
        (["x", "--model", "script:t.md", "--save-run", "none/run.json"], 2, "there is no directory none"),
        ([" ", "--model", "script:t.md"], 2, "TASK is empty"),
    ],
)
def test_wrong_use_is_one_line_and_a_code(folder: Path, arguments: list[str], code: int, message: str) -> None:
    (folder / "broken.py").write_text("def (")
    done = agent(folder, *arguments)
    assert done.stdout == "", "a model was asked"
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("library", "arguments"),
    [
        ("litellm", ("--model", "litellm:m")),
        ("openai", ("--model", "openai:m")),
        ("ddgs", ("--model", "script:t.md", "--tool", "web_search")),
        ("markdownify", ("--model", "script:t.md", "--tool", "visit_webpage")),
    ],
)
def test_a_library_that_is_not_installed_is_code_4(
    folder: Path, library: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(folder)
    assert main(["agent", "Go.", *arguments]) == 4
    said = capsys.readouterr()
    assert "pip install" in said.err and library in said.err and said.out == ""


def test_a_model_that_fails_is_code_4_and_steps_that_run_out_code_3(folder: Path) -> None:
    (folder / "one.md").write_text(SCRIPT.split("---\n")[0])
    done = agent(folder, "Sum.", "--model", "script:one.md", "--sandbox", "local")
    assert done.returncode == 4 and done.stdout.count("has no reply number 2") == 1
    (folder / "two.md").write_text(SCRIPT.split("---\n")[0] + "---\nAbout 45.\n")
    done = agent(folder, "Sum.", "--model", "script:two.md", "--sandbox", "local", "--max-steps", "1")
    assert done.returncode == 3 and "Ended: max steps. About 45." in done.stdout


def test_openai_with_a_key_from_dotenv_which_sets_nothing_but_keys(folder: Path) -> None:
    with serving(events(["<code>", "final_answer(", "'ok')</code>"])) as server, serving(completion("no")) as other:
        (folder / ".env").write_text(
            f"# keys\nexport OPENAI_API_KEY='sk-dotenv'\nOPENAI_BASE_URL={other.url}\nHTTP_PROXY={other.url}\nPYTHONPATH=/x\n"
        )
        given = ("Go.", "--model", "openai:m", "--base-url", f"{server.url}/v1", "--sandbox", "local", "--stream")
        done = agent(folder, *given, OPENAI_BASE_URL=other.url)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.requests[0][2]["authorization"] == "Bearer sk-dotenv" and other.requests == []
        done = agent(folder, *given, OPENAI_API_KEY="sk-env")
        assert server.requests[1][2]["authorization"] == "Bearer sk-env"
        assert "sk-" not in done.stdout + done.stderr


def test_a_dotenv_that_no_environment_can_hold_is_reported(folder: Path) -> None:
    (folder / ".env").write_text("OPENAI_API_KEY=a\0b\n")
    done = agent(folder, "Go.", "--model", "script:two.md", "--sandbox", "local")
    assert done.returncode == 2 and "OPENAI_API_KEY has a NUL" in done.stderr and "Traceback" not in done.stderr


def test_tools_helpers_and_imports(folder: Path) -> None:
    (folder / "mytools.py").write_text(
        "from safeexec_agent import tool\n\n@tool\ndef shout(text: str) -> str:\n    '''Shouts.\n\n    Args:\n        text: What.\n    '''\n    return text.upper()\n"
    )
    (folder / "utils.py").write_text("def twice(x):\n    return x * 2\n")
    (folder / "t.md").write_text(
        "<code>\nfrom utils import twice\nimport getopt\nfinal_answer(twice(shout('ab')) + open('data.txt').read())\n</code>\n"
    )
    (folder / "data.txt").write_text("!")
    done = agent(
        folder,
        "Go.",
        "--model",
        "script:t.md",
        "--tool",
        "mytools:shout",
        "--helper",
        "utils.py",
        "--import",
        "getopt",
        "--file",
        "data.txt",
    )
    assert "Final answer: ABAB!" in done.stdout, done.stdout + done.stderr


def test_ctrl_c_interrupts(folder: Path) -> None:
    command = [sys.executable, "-m", "safeexec", "agent", "Loop.", "--model", "script:loop.md", "--sandbox", "local"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        restore_signals=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("looping"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(30) == 130 and "AgentInterrupted: the run was interrupted" in rest


def test_on_a_terminal_code_is_coloured_and_guest_text_harmless(folder: Path) -> None:
    main, side = pty.openpty()
    command = [sys.executable, "-m", "safeexec", "agent", "Sum.", "--model", "script:t.md", "--sandbox", "local"]
    process = subprocess.Popen(command, cwd=folder, env=environment(), stdin=side, stdout=side, stderr=side)
    os.close(side)
    data = b""
    while True:
        if not select.select([main], [], [], 60)[0]:
            break
        try:
            piece = os.read(main, 65536)
        except OSError:
            break
        if not piece:
            break
        data += piece
    os.close(main)
    assert process.wait(30) == 0
    text = data.decode()
    assert "\x1b[1mExecuting parsed code:\x1b[0m" in text
    assert "\x1b]" not in text and "\x07" not in text and "\\x1b]0;x\\x07" in text
    assert "\x1b[2J" not in text


def test_a_run_that_cannot_be_saved_is_said_after_its_answer(folder: Path) -> None:
    (folder / "one.md").write_text("<code>\nfinal_answer(6)\n</code>\n")
    done = agent(folder, "Go.", "--model", "script:one.md", "--sandbox", "local", "--save-run", "/dev/full")
    assert done.returncode == 1 and "Final answer: 6" in done.stdout
    assert "--save-run: /dev/full could not be written: No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_locale_without_these_characters_ends_no_run(folder: Path) -> None:
    (folder / "u.md").write_text("<code>\nprint('é☃')\n'☃'\n</code>\n---\n<code>\nfinal_answer('☃')\n</code>\n")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = agent(folder, "gö ☃", "--model", "script:u.md", "--sandbox", "local", **plain)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.isascii() and "g\\xf6 \\u2603" in done.stdout and "Final answer: \\u2603" in done.stdout
    assert "\\u2500" not in done.stdout, "lines are drawn in what there is"
    library = (
        "from safeexec_agent import CodeAgent, ScriptedModel\n"
        "with CodeAgent([], ScriptedModel.from_file('u.md'), sandbox='local') as agent:\n"
        "    assert agent.run('\\u2603') == '\\u2603'\n    agent.replay()\n    agent.visualize()\n"
    )
    words = [sys.executable, "-c", library]
    subprocess.run(words, cwd=folder, env={**environment(), **plain}, check=True, capture_output=True, timeout=100)


def test_help_names_the_command_and_what_it_is_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "safeexec", "--help"], capture_output=True, text=True, env=environment(), timeout=30
    )
    assert "Have a model do a task by writing Python." in done.stdout


def test_help_says_what_its_own_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "--help"]) == 0
    said = capsys.readouterr().out
    codes = {line.split()[0]: line for line in said.partition("Exit codes:")[2].splitlines() if line.strip()}
    assert "rounds" in codes["3"] and "model" in codes["4"] and "SystemExit" not in said
    assert "OLLAMA_BASE_URL" in said


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_only_a_host_that_was_named_is_reached(folder: Path, sandbox: str) -> None:
    reached: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"127.0.0.1:{server.server_port}"
        code = f"import urllib.request\nfinal_answer(urllib.request.urlopen('http://{host}/page').read().decode())"
        (folder / "net.md").write_text(
            f"<code>\n{code}\n</code>\n---\n<code>\nfinal_answer('no way out')\n</code>\n---\n"
        )
        given = ("Read.", "--model", "script:net.md", "--sandbox", sandbox, "--import", "urllib.request", "--json")
        assert "no way out" in agent(folder, *given).stdout and reached == []
        done = agent(folder, *given, "--allow-net", host)
        assert done.returncode == 0, done.stderr
        assert '"hello"' in done.stdout and reached == ["/page"]
    finally:
        server.shutdown()
        server.server_close()
    refused = agent(folder, "Read.", "--model", "script:net.md", "--allow-net", "http://user@host/")
    assert refused.returncode == 2 and "network" in refused.stderr


def test_whoever_reads_the_output_may_go_away(folder: Path) -> None:
    (folder / "many.md").write_text("<code>\nfor n in range(20_000): print(n)\n</code>\n---\n" * 3 + SCRIPT)
    command = f"{sys.executable} -m safeexec agent count --model script:many.md --sandbox local"
    for more in ("", " --json"):
        script = f"{command}{more} | head -n 1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=environment(), capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 141 and "went away" in done.stderr and "Traceback" not in done.stderr
