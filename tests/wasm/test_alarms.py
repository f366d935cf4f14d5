"""`signal.alarm` and `setitimer`: what programs limit their own time with."""

from __future__ import annotations

import pytest

from safeexec import Executor, Limits, Policy
from safeexec_backends.wasm.fs_nodes import base_tree
from safeexec_backends.wasm.fs_tree import Quota
from safeexec_backends.wasm.host import SIGINT, SIGNAL_WORD, Host

TIMEOUT = """
import asyncio, re, signal, time
class Late(Exception):
    pass
def late(number, frame):
    raise Late(signal.Signals(number).name)
signal.signal(signal.SIGALRM, late)
"""
SOON = "signal.setitimer(signal.ITIMER_REAL, 0.05)\n"


@pytest.mark.parametrize(
    "work",
    [
        "while True:\n    pass",
        "time.sleep(100)",
        "sum(i for i in iter(int, 1))",
        "sorted([2, 1], key=lambda x: time.sleep(100))",
        "re.sub('a', lambda m: time.sleep(100), 'a')",
        "asyncio.run(asyncio.sleep(100))",
        "asyncio.run(asyncio.wait_for(asyncio.sleep(100), 90))",
        "await asyncio.sleep(100)",
        "while True:\n    print('x' * 50)",
        "try:\n    while True:\n        pass\nfinally:\n    done = True",
    ],
)
def test_work_that_takes_too_long_is_left_by_the_handler(executor: Executor, work: str) -> None:
    with executor.session() as session:
        session.run(TIMEOUT)
        result = session.run(SOON + work)
        assert result.error is not None and (result.error.type, result.error.message) == ("Late", "SIGALRM"), result
        assert "safeexec" not in result.error.traceback
        assert session.run("1 + 1").value == 2


def test_a_function_with_a_time_limit_of_its_own(executor: Executor) -> None:
    code = TIMEOUT + (
        "def limited(seconds, function):\n    signal.alarm(seconds)\n    try:\n        return function()\n"
        "    except Late as error:\n        return str(error)\n    finally:\n        signal.alarm(0)\n"
        "limited(1, lambda: time.sleep(100)), limited(100, lambda: 2), signal.alarm(0)"
    )
    assert executor.run(code).value == ("SIGALRM", 2, 0)


def test_what_is_left_is_told(executor: Executor) -> None:
    code = (
        "import signal\nR = signal.ITIMER_REAL\n"
        "first = signal.alarm(100), signal.alarm(50), signal.alarm(0), signal.alarm(0), signal.alarm(-5)\n"
        "second = signal.getitimer(R), signal.setitimer(R, 30.5, 2), signal.setitimer(R, 0, 7), signal.getitimer(R)\n"
        "first, second"
    )
    first, second = executor.run(code).value
    assert first == (0, 100, 50, 0, 0)
    assert second[0] == second[1] == second[3] == (0.0, 0.0) and 25 < second[2][0] <= 30.5 and second[2][1] == 2.0


def test_at_intervals_until_it_is_stopped(executor: Executor) -> None:
    code = (
        "import signal, time\nrings = []\ndef ring(number, frame):\n    rings.append(frame is not None)\n"
        "    if len(rings) == 3:\n        signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "signal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        "while len(rings) < 3:\n    pass\ntime.sleep(0.1)\nrings"
    )
    assert executor.run(code).value == [True] * 3


def test_a_sleep_goes_on_after_a_handler_that_raises_nothing(executor: Executor) -> None:
    code = (
        "import signal, time\nrings = []\nsignal.signal(signal.SIGALRM, lambda *_: rings.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02)\nstart = time.monotonic()\ntime.sleep(0.2)\n"
        "len(rings), time.monotonic() - start >= 0.2"
    )
    assert executor.run(code).value == (1, True)


def test_handlers_are_kept_and_told(executor: Executor) -> None:
    code = (
        "import signal, os\nfrom signal import SIGALRM, SIG_DFL, SIG_IGN\nseen = []\ndef handler(*a): seen.append(a[0])\n"
        "told = [signal.getsignal(SIGALRM), signal.signal(SIGALRM, handler), signal.getsignal(SIGALRM) is handler,\n"
        "        signal.signal(14, SIG_IGN) is handler]\nsignal.raise_signal(SIGALRM)\n"
        "told += [signal.signal(SIGALRM, handler)]\nsignal.raise_signal(SIGALRM)\nos.kill(os.getpid(), SIGALRM)\n"
        "told += [signal.signal.__name__, signal.getsignal(signal.SIGTERM)]\n"
        "[t.name if isinstance(t, signal.Handlers) else t for t in told], [int(s) for s in seen]"
    )
    assert executor.run(code).value == (["SIG_DFL", "SIG_DFL", True, True, "SIG_IGN", "signal", "SIG_DFL"], [14, 14])


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("signal.signal(signal.SIGALRM, 'text')", "TypeError"),
        ("signal.alarm(1.5)", "TypeError"),
        ("signal.alarm(10**400)", "OverflowError"),
        ("signal.setitimer(signal.ITIMER_REAL, -1)", "ItimerError"),
        ("signal.setitimer(signal.ITIMER_REAL, float('nan'))", "ItimerError"),
        ("signal.setitimer(signal.ITIMER_REAL, 1, float('inf'))", "ItimerError"),
        ("signal.setitimer(signal.ITIMER_PROF, 1)", "ItimerError"),
        ("signal.getitimer(7)", "ItimerError"),
    ],
)
def test_what_is_no_time_or_timer_is_refused(executor: Executor, code: str, error: str) -> None:
    result = executor.run("import signal\n" + code)
    assert result.error is not None and result.error.type == error, result


def test_without_a_handler_it_ends_the_guest(executor: Executor) -> None:
    result = executor.run("import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0.02)\ntime.sleep(100)")
    assert result.error is not None and result.error.kind == "crash" and "142" in result.error.message, result


def test_nothing_goes_off_when_the_step_is_over(executor: Executor) -> None:
    with executor.session() as session:
        session.run(TIMEOUT)
        assert session.run(SOON + "1").value == 1
        assert session.run("import time\ntime.sleep(0.2)\nsignal.alarm(0)").value == 0


def test_no_alarm_is_heard_past_a_limit(executor: Executor) -> None:
    policy = Policy(limits=Limits(time=0.5))
    code = (
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "while True:\n    pass"
    )
    result = executor.run(code, policy=policy)
    assert result.error is not None and result.error.kind == "time", result
    assert result.usage.duration < 0.5 + 0.2 + 1  # a busy machine


def test_a_frame_is_sent_whole_and_the_handler_is_called_after_it(executor: Executor) -> None:
    """Output, displays and tool calls under alarms that go off all the time: no frame is torn, nothing is lost."""
    code = (
        "import signal\nrings = 0\ndef ring(*_):\n    global rings\n    rings += 1\n    print('ring')\n"
        "signal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "calls = 0\nwhile rings < 5 and calls < 100000:\n    assert double(calls) == 2 * calls\n    calls += 1\n"
        "    print('line', calls)\nsignal.setitimer(signal.ITIMER_REAL, 0)\nrings, calls"
    )
    with executor.session(tools=[double], policy=Policy(limits=Limits(time=60, tool_calls=200_000))) as session:
        result = session.run(code)
        assert result.error is None, result
        rings, calls = result.value
        lines = result.stdout.splitlines()
        assert lines.count("ring") == rings == 5
        assert [line for line in lines if line != "ring"] == [f"line {n}" for n in range(1, calls + 1)]


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def test_a_guest_that_uses_the_device_itself_leaves_nothing_behind(executor: Executor) -> None:
    code = (
        "import signal\ndevice = signal.alarm.__self__.rings.__globals__['device']\n"
        "[device.alarm(a, b) for a in (1e308, float('nan'), float('inf'), -1.0, 0.0, 1e-300) for b in (-1.0, 1e-300, float('nan'))][0]"
    )
    with executor.session() as session:
        assert session.run(code).value == 0.0
        assert session.run("import time\ntime.sleep(0.1)\n2").value == 2


class _Memory:
    """A guest's memory of one word."""

    size = 65536

    def __init__(self, word: int) -> None:
        self.word = word

    def u32(self, _address: int) -> int:
        return self.word

    def set_u32(self, address: int, value: int) -> None:
        assert address == SIGNAL_WORD
        self.word = value


def test_an_alarm_does_not_take_the_place_of_an_interrupt() -> None:
    host = Host(base_tree({}), Quota(), 65536)
    memory = _Memory(SIGINT)
    host.memory = memory  # type: ignore[assignment]
    host.alarm(1e-9, 0.0)
    host._ring(float("inf"))
    assert memory.word == SIGINT and host.alarm(-1.0, 0.0) > 0  # still to come
    memory.word = 0
    host._ring(float("inf"))
    assert memory.word == 14 and host.alarm(-1.0, 0.0) == 0
    host.rest()
    assert memory.word == 0
