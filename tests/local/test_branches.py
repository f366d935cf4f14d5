"""Branches of local sessions: by effect, with the language wall off, so that whatever Python can do can be tried."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec import BackendUnavailable, Executor, Limits, NotSupported, Policy, Session, SessionClosed, session
from safeexec.testing import same
from safeexec.testing.base import eventually
from safeexec_backends.local import family as families
from safeexec_backends.local import keeping
from safeexec_backends.local.returning import ReturningGuest
from tests.local.cells import children, end_keeper, ended, family, guest_of
from tests.local.conftest import FAST
from tests.support import histories
from tests.support.alive import LIVE, LOOK, SEEN, WRECK
from tests.support.undone import CRASH, ENDS, PROPERTY_LOOK, PROPERTY_START, RUINS, SPIN, STEPS, TREE, WAYS_TO_FAIL

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")


SPARE = 3
"""Processes of cells that nobody has asked for yet: one with a process that watches over it, one for a single step."""


def processes(executor: Executor) -> set[int]:
    """Of all cells: descendants of the zygote that nobody has ended."""
    backend: Any = executor._backend
    found: set[int] = set()
    ask = [backend._zygote._process.pid]
    while ask:
        below = children(ask.pop())
        found |= below
        ask += below
    return found


# -- what is alive -----------------------------------------------------------------------------------------------------------


def test_everything_alive_is_in_a_branch_and_in_a_branch_of_it(trunk: Session) -> None:
    assert trunk.run(LIVE).ok
    with trunk.fork() as branch, branch.fork() as twig:
        twig.run(WRECK)
        assert branch.run(LOOK).value == SEEN
        with pytest.raises(AssertionError):
            assert twig.run(LOOK).value == SEEN
        assert trunk.run(LOOK).value == SEEN
        assert branch.run("next(walker)").value == 2 and trunk.run("next(walker)").value == 2


def test_branches_are_undone_by_themselves(trunk: Session) -> None:
    assert trunk.run(LIVE).ok
    with trunk.fork() as branch:
        for end in ENDS:
            assert branch.run(WRECK + end).rolled_back, end
            assert trunk.run(WRECK + end).rolled_back, end
        assert branch.run(LOOK).value == SEEN and trunk.run(LOOK).value == SEEN


def test_a_branch_begins_where_a_step_was_undone(trunk: Session) -> None:
    trunk.run("x = [1]")
    assert trunk.run("x.append(2)\n" + CRASH).rolled_back
    with trunk.fork() as branch:
        assert branch.run("x.append(3)\nx").value == [1, 3] and trunk.run("x").value == [1]


def test_many_branches_of_one_state_and_turns_in_any_order(trunk: Session) -> None:
    trunk.run("x = []\nopen('f', 'w').write('start')")
    branches = [trunk.fork() for _ in range(8)]
    for turn in range(3):
        for number in (3, 0, 7, 1, 5, 2, 6, 4):
            step = f"x.append({number})\nopen('f', 'a').write('{number}')\n(len(x), open('f').read())"
            assert branches[number].run(step).value == (turn + 1, "start" + str(number) * (turn + 1))
        assert trunk.run("(x, open('f').read())").value == ([], "start")
    for branch in branches:
        branch.close()


def test_a_chain_of_branches_whose_trunk_is_closed(executor: Executor) -> None:
    with executor.session() as first:
        first.run("x = [0]")
        last = first.fork()
    for number in range(1, 50):
        following = last.fork()
        last.close()
        last = following
        assert last.run(f"x.append({number})\nlen(x)").value == number + 1
    assert len(family(last)) <= 3
    last.close()


def test_fork_right_after_the_start_and_of_an_idle_session(executor: Executor) -> None:
    with executor.session(variables={"v": [1]}) as trunk, trunk.fork() as one, trunk.fork() as two:
        assert one.run("v.append(2)\nv").value == [1, 2]
        assert two.run("v").value == [1] and trunk.run("v").value == [1]
        assert eventually(lambda: all(state in "ST" for _, state in family(trunk).values()))
        with two.fork() as three:
            assert three.run("v").value == [1]


def test_random_numbers(trunk: Session) -> None:
    trunk.run("import random, os\nrandom.random()")
    with trunk.fork() as same_numbers, trunk.fork(reseed=True) as others:
        mine = trunk.run("random.random()").value
        assert same_numbers.run("random.random()").value == mine != others.run("random.random()").value
        assert trunk.run("os.urandom(8)").value != same_numbers.run("os.urandom(8)").value


# -- files -------------------------------------------------------------------------------------------------------------------

DIFFERENCE = (
    "after = tree()\n{n: (before.get(n), after.get(n)) for n in {*before, *after} if before.get(n) != after.get(n)}"
)


@pytest.mark.parametrize("ruin", RUINS)
def test_what_a_branch_does_to_files_is_nothing_to_its_sibling(executor: Executor, ruin: str) -> None:
    with executor.session(policy=Policy(limits=Limits(time=10))) as trunk:
        assert trunk.run(TREE).ok
        with trunk.fork() as branch, trunk.fork() as third:
            result = branch.run(RUINS[ruin])
            assert result.ok, result.error
            mine = branch.run("tree() if os.access('.', os.R_OK) else 0").value
            assert trunk.run(DIFFERENCE).value == {}
            assert third.run("open('mine', 'w').write('third')").ok
            assert same(branch.run("tree() if os.access('.', os.R_OK) else 0").value, mine)
            assert trunk.run(DIFFERENCE).value == {} and [f.name for f in third.files.list() if f.name == "mine"]


def test_open_files_have_their_own_places(trunk: Session) -> None:
    trunk.run(
        "import os, tempfile\nf = open('a', 'w+')\nf.write('abcdef')\nf.seek(2)\nlog = open('log', 'a')\nnameless = tempfile.TemporaryFile()\n"
        "nameless.write(b'0123')\nnameless.flush()\nnameless.seek(1)"
    )
    look = "(f.tell(), f.read(2), nameless.read(), open('a').read(), open('log').read())"
    with trunk.fork() as branch:
        branch.run(
            "f.read()\nf.write('more')\nf.flush()\nlog.write('branch')\nlog.flush()\nnameless.seek(0)\nnameless.write(b'x' * 100)\nnameless.flush()"
        )
        branch.run("os.remove('a')\nopen('a', 'w').write('another')")
        assert trunk.run(look).value == (2, "cd", b"123", "abcdef", "")
        trunk.run("log.write('trunk')\nlog.flush()\nf.seek(0)\nf.truncate()\nf.write('T')\nf.flush()")
        assert branch.run("(f.seek(0), f.read(), open('a').read(), open('log').read())").value == (
            0,
            "abcdefmore",
            "another",
            "branch",
        )
        assert branch.run("open('log').read(), open('a').read()").value == ("branch", "another")
        assert trunk.run("open('log').read(), open('a').read()").value == ("trunk", "T")


def test_an_open_file_that_one_of_them_removed(trunk: Session) -> None:
    trunk.run(
        "import os\nopen('f', 'w').write('0123456789')\nreader = open('f', 'rb', buffering=0)\nboth = open('f', 'r+b', buffering=0)\nreader.seek(4)"
    )
    with trunk.fork() as branch:
        branch.run("os.remove('f')\nboth.write(b'branch')")
        trunk.run("open('f', 'w').write('a secret of the trunk')")
        assert branch.run("(reader.read(), both.seek(0), both.read(), os.path.exists('f'))").value == (
            b"ch6789"[0:2] + b"6789",
            0,
            b"branch6789",
            False,
        )
        assert trunk.run("(reader.read(), open('f').read())").value == (b"cret of the trunk", "a secret of the trunk")
        assert branch.run("(reader.seek(0), reader.read())").value == (0, b"branch6789")


def test_each_has_the_disk_to_itself(executor: Executor) -> None:
    """However much the others have, and hold open."""
    policy = Policy(limits=Limits(disk=2**20, time=5))
    fill = "f = open('fill', 'wb')\nf.write(bytes(800_000))\nf.flush()\nimport os\nos.path.getsize('fill')"
    with executor.session(policy=policy) as trunk:
        branches = [trunk.fork() for _ in range(4)]
        for _ in range(2):
            for one in (trunk, *branches):
                assert one.run("import os\nif os.path.exists('fill'): os.remove('fill')").ok
                assert one.run(fill).value == 800_000
        for one in (trunk, *branches):
            result = one.run("open('more', 'wb').write(bytes(400_000))")
            assert result.error is not None and "space" in result.error.message
        for one in branches:
            one.close()


def test_files_that_the_host_put_there(trunk: Session) -> None:
    with trunk.fork() as branch:
        branch.files.write("b.txt", "branch")
        trunk.files.write("t.txt", "trunk")
        assert [f.name for f in branch.files.list()] == ["b.txt"] and [f.name for f in trunk.files.list()] == ["t.txt"]
        assert branch.files.read("b.txt") == b"branch" and trunk.run("open('t.txt').read()").value == "trunk"


# -- turns -------------------------------------------------------------------------------------------------------------------


def test_the_requests_that_change_nothing_are_the_cores() -> None:
    assert keeping.PURE == session._PURE


def test_branches_in_many_threads(executor: Executor) -> None:
    with executor.session({"double": lambda n: 2 * n}) as trunk:
        trunk.run("x = []")
        branches = [trunk.fork() for _ in range(6)]
        found: dict[int, Any] = {}

        def work(number: int) -> None:
            for turn in range(8):
                found[number] = branches[number].run(f"x.append(double({turn + number}))\nx").value
                assert branches[number].variables["x"] == found[number]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == {number: [2 * (turn + number) for turn in range(8)] for number in range(6)}
        assert trunk.run("x").value == []
        for branch in branches:
            branch.close()


def test_waiting_for_a_sibling_costs_no_time_of_ones_own(executor: Executor) -> None:
    started = threading.Event()
    with executor.session({"started": started.set}, policy=Policy(limits=Limits(time=1.2))) as trunk:
        trunk.run("x = 1")
        with trunk.fork() as branch:
            results: list[Any] = []
            slow = threading.Thread(target=lambda: results.append(branch.run("started()\n" + SPIN)))
            slow.start()
            assert started.wait(20)
            waited = trunk.run("import time\ntime.sleep(0.7)\nx")
            slow.join(20)
            assert waited.value == 1 and results[0].rolled_back and branch.run("x").value == 1


@pytest.mark.parametrize("how", ["close", "kill"])
def test_a_session_is_ended_while_it_waits_or_while_a_sibling_runs(executor: Executor, how: str) -> None:
    started, go_on = threading.Event(), threading.Event()
    with executor.session({"started": started.set, "wait": lambda: go_on.wait(20) and None}) as trunk:
        trunk.run("x = 1")
        waiting, idle, runs = trunk.fork(), trunk.fork(), trunk.fork()
        results: list[Any] = []
        one = threading.Thread(target=lambda: results.append(runs.run("started()\nwait()\nx = 2\nx").value))
        one.start()
        assert started.wait(20)

        def ask() -> None:
            try:
                results.append(waiting.run("x").error)
            except SessionClosed as error:
                results.append(error)

        two = threading.Thread(target=ask)
        two.start()
        getattr(idle, how)()
        getattr(waiting, how)()
        two.join(20)
        assert not two.is_alive() and len(results) == 1 and results[0] is not None
        go_on.set()
        one.join(20)
        assert results[1] == 2 and trunk.run("x").value == 1 and idle.closed and waiting.closed
        runs.close()


def test_changing_over_is_interrupted(trunk: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the keeper answers then, nobody waits for; it must not be taken for the answer to another."""
    trunk.run("x = ['trunk']")
    hear = ReturningGuest._hear
    armed: list[int] = []

    def interrupted(guest: ReturningGuest, timeout: float | None) -> Any:
        if armed and not armed.pop():
            raise KeyboardInterrupt
        return hear(guest, timeout)

    monkeypatch.setattr(ReturningGuest, "_hear", interrupted)
    with trunk.fork() as branch, trunk.fork() as third:
        branch.run("x = ['branch']")
        third.run("x = ['third']")
        names = {"trunk": trunk, "branch": branch, "third": third}
        for number in range(12):
            one, two, three = (list(names)[(number + place) % 3] for place in range(3))
            assert names[two].run("x").value == [two]
            armed[:] = [0] if number % 2 else [0, 1]
            try:
                names[one].run("x")
            except KeyboardInterrupt:
                pass
            armed.clear()
            for name in (three, one, two):
                assert names[name].run("x").value == [name]


def test_a_turn_that_was_never_ended(trunk: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is interrupted between a step and the word to keep what it did."""
    monkeypatch.setattr(families, "_UNDECIDED", 0.1)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    trunk.run("x = [1]")
    with trunk.fork() as branch:
        with monkeypatch.context() as patch:
            patch.setattr(session, "result_of", interrupted)
            with pytest.raises(KeyboardInterrupt):
                trunk.run("x.append(2)")
        assert branch.run("x").value == [1] and trunk.run("x").value == [1, 2]


def test_an_interrupt_is_for_the_one_that_runs(executor: Executor) -> None:
    started = threading.Event()
    with executor.session({"started": started.set}, policy=Policy(limits=Limits(time=20))) as trunk:
        trunk.run("x = [1]")
        with trunk.fork() as branch:
            results: list[Any] = []
            thread = threading.Thread(target=lambda: results.append(branch.run("x.append(2)\nstarted()\n" + SPIN)))
            thread.start()
            assert started.wait(20)
            trunk.interrupt()
            branch.interrupt()
            thread.join(20)
            assert results[0].rolled_back and branch.run("x").value == [1] and trunk.run("x").value == [1]


def test_a_session_that_cannot_be_set_aside_says_so(trunk: Session) -> None:
    """It left a thread behind, which no copy has."""
    trunk.run("import threading\nstop = threading.Event()\nx = 1")
    with trunk.fork() as branch, trunk.fork() as ends_it:
        for one in (branch, ends_it):
            assert one.run("t = threading.Thread(target=stop.wait, daemon=True)\nt.start()").ok
            if one is branch:  # another one's turn
                with pytest.raises(BackendUnavailable, match="thread"):
                    branch.fork()
        assert trunk.run("x").value == 1
        result = branch.run("x")
        assert branch.closed and result.error is not None and "thread" in result.error.message
        assert not ends_it.run("x").ok or ends_it.closed


def test_once_its_thread_has_ended_it_can_be_set_aside(trunk: Session) -> None:
    trunk.run("import threading\nstop = threading.Event()\nx = 1")
    with trunk.fork() as branch:
        branch.run("t = threading.Thread(target=stop.wait, args=(0.2,), daemon=True)\nt.start()\nx = 2")
        assert branch.run("t.join()\nx").value == 2
        assert trunk.run("x").value == 1 and branch.run("x").value == 2


# -- who cannot --------------------------------------------------------------------------------------------------------------


def test_what_keeps_no_state_has_no_branches(executor: Executor) -> None:
    with executor.session(policy=Policy(rollback="never")) as trunk:
        with pytest.raises(NotSupported, match="never"):
            trunk.fork()
        assert trunk.run("1").value == 1
    with (
        executor.session(policy=Policy(network=("example.org",))) as trunk,
        pytest.raises(NotSupported, match="network"),
    ):
        trunk.fork()


def test_no_more_branches_than_there_is_room_for(trunk: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk.run("x = 1")
    branches = []
    with pytest.raises(BackendUnavailable, match="room"):
        for _ in range(keeping.BRANCHES + 1):
            branches.append(trunk.fork())
    assert len(branches) == keeping.BRANCHES - 1 and len(family(trunk)) <= 3
    assert branches[-1].run("x").value == 1
    for branch in branches:
        branch.close()
    with trunk.fork() as again:
        assert again.run("x").value == 1


# -- nothing is left -----------------------------------------------------------------------------------------------------------


def test_closing_the_last_ends_every_process_and_descriptor(executor: Executor) -> None:
    executor.run("1")
    assert eventually(lambda: len(processes(executor)) <= SPARE)
    before = set(os.listdir("/proc/self/fd"))
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)):
        trunk = executor.session(policy=FAST)
        trunk.run("x = 1")
        sessions = [trunk, *(trunk.fork() for _ in range(3))]
        sessions[2].run("x = 2")
        sessions[3].run(SPIN)
        first = os.pidfd_open(guest_of(trunk).pid)
        for number in order[:-1]:
            sessions[number].close()
            sessions[number].close()
            assert not ended(first, 0)
        last = sessions[order[-1]]
        assert last.run("x").value == (2 if order[-1] == 2 else 1) and len(family(last)) <= 3
        last.close()
        assert ended(first, 0)
        os.close(first)
        assert set(os.listdir("/proc/self/fd")) == before
    assert eventually(lambda: len(processes(executor)) <= SPARE)


def test_two_hundred_branches_leave_nothing(executor: Executor) -> None:
    executor.run("1")
    before = set(os.listdir("/proc/self/fd"))
    trunk = executor.session()
    trunk.run("x = [0]\nopen('f', 'w').write('f')")
    branches = []
    for number in range(200):
        branch = trunk.fork()
        branches.append(branch)
        if number % 5 == 0:
            assert branch.run(f"x.append({number})\nx").value == [0, number]
    # What has not run has no process, and who waits has no descriptor here.
    assert len(family(trunk)) <= 40 + 3 and len(os.listdir("/proc/self/fd")) < len(before) + 10
    assert branches[-1].run("x").value == [0] and branches[195].run("x").value == [0, 195]
    for branch in branches:
        branch.close()
    assert trunk.run("x").value == [0]
    assert eventually(lambda: len(family(trunk)) <= 3)
    trunk.close()
    assert eventually(lambda: len(processes(executor)) <= SPARE)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_forks(executor: Executor) -> None:
    def keeper(name: str) -> int:
        lines = Path(f"/proc/{guest_of(trunk).pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    trunk = executor.session()
    trunk.run("x = [0]\nopen('f', 'w').write('f' * 10_000)")
    before: tuple[int, ...] = ()
    for number in range(10_000):
        with trunk.fork() as branch:
            if number % 20 == 0:
                assert branch.run(f"x.append({number})\nopen('f', 'w').write('{number}')\nx").value == [0, number]
                assert trunk.run("(x, len(open('f').read()))").value == ([0], 10_000)
        if number == 1000:
            before = keeper("VmRSS"), keeper("FDSize"), len(os.listdir("/proc/self/fd"))
    assert keeper("VmRSS") < before[0] + 2000 and keeper("FDSize") == before[1]
    assert len(os.listdir("/proc/self/fd")) <= before[2] + 2 and eventually(lambda: len(family(trunk)) <= 3)
    trunk.close()


def test_branches_that_are_dropped_are_closed(trunk: Session) -> None:
    trunk.run("x = 1")
    for _ in range(5):
        branch = trunk.fork()
        branch.run("x = 2")
        del branch
    gc.collect()
    assert trunk.run("x").value == 1
    assert eventually(lambda: len(family(trunk)) <= 3)


def test_closing_the_executor_ends_branches() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Executor("local", _language="full") as made:
        trunk = made.session()
        branch = trunk.fork()
        branch.run("x = 1")
        first = os.pidfd_open(guest_of(trunk).pid)
    assert ended(first, 0) and not branch.run("1").ok if not branch.closed else True
    os.close(first)
    for one in (trunk, branch):
        one.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_death_of_the_watching_process_ends_all(trunk: Session) -> None:
    trunk.run("x = 1")
    branch = trunk.fork()
    branch.run("x = 2")
    end_keeper(trunk)
    for one in (branch, trunk):
        assert not one.run("1").ok and one.closed
    assert eventually(lambda: not family(trunk))
    branch.close()


def test_memory_of_a_branch_that_has_done_nothing(trunk: Session) -> None:
    """It is a number, and the state it shares."""
    trunk.run("kept = bytearray(20 * 2**20)")
    pids = {pid for pid, _ in family(trunk).values()}
    branches = [trunk.fork() for _ in range(20)]
    assert len({pid for pid, _ in family(trunk).values()} - pids) <= 1
    for branch in branches:
        branch.close()


# -- properties ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    program=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    events=st.lists(st.sampled_from(("go", "fail", "fork", "twig", "close")), min_size=8, max_size=8),
    failures=st.lists(st.sampled_from(WAYS_TO_FAIL), min_size=8, max_size=8),
)
def test_a_session_that_branches_is_the_session_that_does_not(
    executor: Executor, program: list[str], events: list[str], failures: list[str]
) -> None:
    policy = Policy(limits=Limits(time=0.5))
    opened: list[Session] = []
    try:
        control, traveller = executor.session(policy=Policy(rollback="never")), executor.session(policy=policy)
        opened += [control, traveller]
        assert control.run(PROPERTY_START).ok and traveller.run(PROPERTY_START).ok
        for step, event, failure in zip(program, events, failures, strict=False):
            if event == "fail" and step not in histories.RAISES:
                assert traveller.run(step + "\n" + failure).rolled_back
            elif event == "fork":  # go on in the branch
                traveller = traveller.fork()
                opened.append(traveller)
            elif event == "twig":  # let a branch do something else, and go on as if it had not been
                twig = traveller.fork()
                opened.append(twig)
                twig.run(
                    "items.append('twig')\nopen('log', 'a').write('twig')\nnext(numbers)\ndatabase.rollback()\nkept.truncate(0)"
                )
            elif event == "close" and len(opened) > 2 and opened[-2] is not traveller:
                opened[-2].close()
            mine, its = traveller.run(step), control.run(step)
            if mine.rolled_back:  # a busy machine: half a second was not enough
                mine = traveller.run(step)
            assert same(histories.outcome(mine), histories.outcome(its))
        assert same(traveller.run(PROPERTY_LOOK).value, control.run(PROPERTY_LOOK).value)
    finally:
        for one in opened:
            one.close()


def test_no_mount_is_left(trunk: Session) -> None:
    def mounts() -> list[str]:  # a daemon beside this may be ending containers
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "docker" not in line]

    before = mounts()
    with trunk.fork() as branch:
        branch.run("1")
        assert mounts() == before
