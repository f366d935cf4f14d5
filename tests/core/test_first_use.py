"""The first use of a sandbox in a process: its own processes get ready while the host imports what it needs."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="n/a: no processes of this kind on Windows")

_WATCHED = """
import json, subprocess, sys
from safeexec_backends.local import launch
made = []
class Popen(subprocess.Popen):
    def __init__(self, *args, **kw):
        early = sorted(n for n in ("safeexec.policy", "safeexec.session", "safeexec.wire") if n in sys.modules)
        super().__init__(*args, **kw); made.append((self, early))
launch.subprocess.Popen = Popen
import safeexec
"""
_REPORT = """
print(json.dumps([result, [early for _, early in made], [p.poll() is not None for p, _ in made], len(launch._ahead)]))
"""


def first_use(code: str) -> list[object]:
    """What it comes to, what of the host's half had been imported when each process was started, which of them have ended by the last line, and
    how many wait to be taken."""
    done = subprocess.run(
        [sys.executable, "-c", _WATCHED + code + _REPORT], capture_output=True, text=True, timeout=120, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_a_first_run_starts_the_sandbox_before_it_imports_its_own_half(sandbox: str) -> None:
    code = f"result = safeexec.run('6 * 7', sandbox={sandbox!r}).value"
    assert first_use(code) == [42, [[]], [False], 0]


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_so_does_a_first_executor(sandbox: str) -> None:
    code = f"with safeexec.Executor({sandbox!r}) as executor: result = executor.run('6 * 7').value"
    assert first_use(code) == [42, [[]], [True], 0]


def test_a_second_executor_starts_its_own_when_it_needs_it() -> None:
    code = """
with safeexec.Executor("local") as one, safeexec.Executor("local") as other:
    result = one.run("1").value + other.run("2").value
"""
    found = first_use(code)
    assert found[0] == 3
    assert found[1] == [[], ["safeexec.policy", "safeexec.session", "safeexec.wire"]]


def test_in_process_there_is_nothing_to_start() -> None:
    assert first_use("result = safeexec.run('6 * 7', sandbox='wasm', workers=0).value") == [42, [], [], 0]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        ("safeexec.Executor('wasm', nonsense=1)", "PolicyError"),
        ("safeexec.Executor('local', nonsense=1)", "PolicyError"),
        ("safeexec.Executor('wasm', policy=3)", "PolicyError"),
        ("safeexec.run('1', policy='none')", "PolicyError"),
        ("safeexec.run('1', limits={'time': 1})", "PolicyError"),
        ("safeexec.Executor('wasm', isolation='session', workers=0)", "PolicyError"),
    ],
)
def test_what_was_started_for_nothing_is_ended(make: str, error: str) -> None:
    code = f"""
try:
    {make}
except Exception as error:
    result = type(error).__name__
"""
    result, _, ended, waiting = first_use(code)
    assert (result, waiting) == (error, 0)
    assert isinstance(ended, list) and all(ended)


@pytest.mark.parametrize("name", ["'../x'", "'no such'", "'nosuch'", "''", "None", "3", "b'wasm'"])
def test_a_sandbox_that_is_none_starts_nothing(name: str) -> None:
    code = f"""
try:
    safeexec.run('1', sandbox={name})
except safeexec.BackendUnavailable as error:
    result = "none"
"""
    assert first_use(code) == ["none", [], [], 0]


def test_a_policy_that_asks_for_more_is_waited_for() -> None:
    """The process is started at once, and told what it is for when that is known."""
    code = """
policy = safeexec.Policy(imports=("math", "json"))
result = safeexec.run("import json; json.dumps(6 * 7)", sandbox="local", policy=policy).value
"""
    result, early, ended, waiting = first_use(code)
    assert (result, ended, waiting) == ("42", [False], 0)
    assert early == [["safeexec.policy"]]


def test_first_uses_in_many_threads() -> None:
    code = """
import concurrent.futures
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    one = lambda number: safeexec.run(f"{number} * 2", sandbox=("wasm", "local")[number % 2]).value
    result = sum(pool.map(one, range(8)))
"""
    result, early, ended, waiting = first_use(code)
    assert (result, waiting) == (56, 0)
    assert isinstance(early, list) and isinstance(ended, list)
    assert len(early) <= 3  # one in vain, by whoever came between the two
    assert ended.count(False) == 2


def test_its_image_is_told_to_the_waiting_zygote_before_the_rest_is_imported() -> None:
    code = """
from safeexec_backends.wasm import launch as wasm
told = []
tell = launch.Launched.tell
def watched(self, setup):
    told.append("safeexec_backends.wasm.pool" in sys.modules)
    tell(self, setup)
launch.Launched.tell = watched
result = [safeexec.run("6 * 7").value, told[0]]
"""
    assert first_use(code)[0] == [42, False]


def test_a_cache_that_cannot_be_read_is_reported_and_leaves_nothing() -> None:
    code = """
from safeexec_backends.wasm import image
def cached():
    raise OSError("the disk is gone")
image.cached = cached
try:
    safeexec.run("1")
except safeexec.BackendUnavailable as error:
    result = "the disk is gone" in str(error)
"""
    result, _, ended, waiting = first_use(code)
    assert (result, waiting) == (True, 0)
    assert isinstance(ended, list) and ended and all(ended)


def test_a_damaged_image_is_built_anew_and_no_zygote_dies_of_it() -> None:
    """What waits is told of an image that was verified, not of one that may be there."""
    code = """
from safeexec_backends.wasm import image
load, looked = image.cache.load, []
def damaged_first(directory):
    looked.append(directory)
    if len(looked) == 1:
        raise image.cache.Damaged("not what was written down")
    return load(directory)
image.cache.load = damaged_first
result = safeexec.run("6 * 7").value
"""
    assert first_use(code) == [42, [[]], [False], 0]
