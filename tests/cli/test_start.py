"""What the command line does before, and what it does not do at all, so that a run starts quickly."""

import json
import os
import subprocess
import sys

import pytest

from safeexec import Executor, Policy
from safeexec import ahead as ahead_of_all
from safeexec.ahead import DEFAULT_SANDBOX
from safeexec.cli import ahead

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="n/a: no local sandbox on Windows")


@pytest.fixture
def launch():
    from safeexec_backends.local import launch

    launch.discard()
    with ahead_of_all._one:  # what the test starts is all that is started
        yield launch
    launch.discard()


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["run", "-c", "1", "--sandbox", "local"], "local"),
        (["repl", "--sandbox=local"], "local"),
        (["run", "--sandbox", "wasm", "--sandbox", "local"], "local"),
        (["run", "-c", "1"], "elsewhere"),
        (["run", "--sandbox", "local", "--help"], None),
        (["doctor", "--sandbox", "local"], None),
        (["run", "--sandbox"], "elsewhere"),
        (["run", "--sandbox", "../x"], None),
        ([], None),
    ],
)
def test_guesses_the_sandbox(args, name, monkeypatch):
    monkeypatch.setenv("SAFEEXEC_SANDBOX", "elsewhere")
    assert ahead._sandbox(args) == name


def test_guesses_the_default(monkeypatch):
    monkeypatch.delenv("SAFEEXEC_SANDBOX", raising=False)
    assert ahead._sandbox(["run", "-c", "1"]) == DEFAULT_SANDBOX


def test_unknown_sandboxes_are_somebody_elses_trouble():
    assert ahead.start(["run", "--sandbox", "nosuch"]) is None


def test_an_executor_takes_the_zygote_that_was_started_ahead(launch):
    launch.ahead(None, {})
    started = launch._ahead[0].process
    with Executor("local") as executor:
        assert executor._backend._zygote._process is started
        assert executor.run("6 * 7").value == 42
        launch.discard()  # nothing to discard any more
        assert executor.run("6 * 7").value == 42
    assert started.returncode is not None


def test_a_wasm_executor_takes_the_zygote_that_was_started_ahead(launch):
    from safeexec_backends.wasm.launch import ahead as start_ahead

    start_ahead(None, {})
    started = launch._ahead[0].process
    with Executor("local") as other:  # is not what it was started for
        assert other._backend._zygote._process is not started
    with Executor("wasm") as executor:
        assert executor._backend._pool._zygote._process is started
        assert executor.run("6 * 7").value == 42
    assert started.returncode is not None


def test_an_executor_with_other_wishes_starts_its_own(launch):
    launch.ahead(None, {})
    started = launch._ahead[0].process
    with Executor("local", policy=Policy(require=()), _deny=("landlock",)) as executor:
        assert executor._backend._zygote._process is not started
        assert not executor.isolation["landlock"].active
    assert started.poll() is None
    launch.discard()
    assert started.returncode is not None


def test_a_fork_ends_nothing_of_its_parents(launch):
    launch.ahead(None, {})
    started = launch._ahead[0].process
    child = os.fork()
    if child == 0:
        launch.discard()
        os._exit(0)
    os.waitpid(child, 0)
    assert started.poll() is None


@pytest.mark.parametrize(
    "args",
    [
        ["run", "--sandbox", "local", "--nonsense"],
        ["run", "-c", "1", "--sandbox", "local"],
        ["run", "-c", "1", "--sandbox", "wasm"],
        ["run", "--sandbox", "wasm", "--nonsense"],
    ],
)
def test_leaves_no_zygote(args):
    code = (
        "import subprocess, sys\n"
        "from safeexec_backends.local import launch\n"
        "made = []\n"
        "class Popen(subprocess.Popen):\n"
        "    def __init__(self, *args, **kw):\n"
        "        super().__init__(*args, **kw); made.append(self)\n"
        "launch.subprocess.Popen = Popen\n"
        "from safeexec.__main__ import main\n"
        f"sys.argv = {['safeexec', *args]!r}\n"
        "main()\n"
        "print([p.poll() is not None for p in made])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout.splitlines()[-1] == "[True]", done.stderr


def test_a_run_imports_only_what_it_needs():
    """Each of these takes milliseconds, in every run of the command."""
    code = (
        "import json, sys\n"
        "from safeexec.__main__ import main\n"
        "sys.argv = ['safeexec', 'run', '-c', '1', '--sandbox', 'local']\n"
        "main()\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/")
    modules = json.loads(done.stdout.splitlines()[-1])
    surplus = {
        "asyncio", "email", "html", "importlib.metadata", "multiprocessing", "pathlib", "pydantic", "rich", "RestrictedPython", "tempfile",
        "tomllib", "urllib.parse", "wasmtime",
    }  # fmt: skip
    assert surplus.isdisjoint(modules)
    assert "click" in modules


@pytest.mark.parametrize("home", [None, "/nonexistent/home", "/dev/null"])
def test_runs_without_a_home(home):
    """The local sandbox keeps nothing between runs, so it needs no place to keep it."""
    env = {k: v for k, v in os.environ.items() if k != "HOME" and not k.startswith("XDG_")}
    if home is not None:
        env |= {"HOME": home, "XDG_CACHE_HOME": home + "/cache", "XDG_CONFIG_HOME": home + "/config"}
    command = [sys.executable, "-m", "safeexec", "run", "-c", "6 * 7", "--sandbox", "local"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", env=env)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert not os.path.exists("/nonexistent")
