"""A process that has no memory maps left is aborted by the engine: nobody gets to that point."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from safeexec import BackendUnavailable, Executor, Policy
from safeexec_backends.wasm import room
from safeexec_backends.wasm.backend import WasmBackend
from safeexec_backends.wasm.instance import Runtime
from safeexec_backends.wasm.native import EngineError

if sys.platform != "linux":
    pytest.skip("n/a: a limit of Linux", allow_module_level=True)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[room.Room]:
    """This process's maps are limited to some hundred more than it has."""
    room.room.learn()
    there = room.room._count()
    assert there
    monkeypatch.setattr(room.room, "_limit", there + room.MARGIN + 40 * room.INSTANCE)
    monkeypatch.setattr(room.room, "_taken", 0)
    monkeypatch.setattr(room.room, "_allowed", 0)
    yield room.room


@pytest.mark.parametrize("rollback", ["never", "limits"])
def test_sessions_beyond_what_a_process_has_room_for_are_refused(few: room.Room, rollback: str) -> None:
    sessions = []
    with Executor("wasm", policy=Policy(rollback=rollback), workers=0) as executor:  # type: ignore[arg-type]
        with pytest.raises(BackendUnavailable, match=r"memory maps .* vm\.max_map_count.* workers"):
            for _ in range(200):
                sessions.append(executor.session())
                assert sessions[-1].run("1 + 1").value == 2
        assert 20 < len(sessions) < 100
        with pytest.raises(BackendUnavailable, match=r"no room for a branch: .* memory maps"):
            for _ in range(200):
                sessions.append(sessions[0].fork())
        assert sessions[0].run("len([1])").value == 1, "what is there goes on"
        while sessions:
            sessions.pop().close()
        with executor.session() as again, again.fork() as branch:
            assert (again.run("1").value, branch.run("2").value) == (1, 2)


def test_instances_are_used_again_once_there_is_room(
    few: room.Room, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_unused", None)
    with Executor(WasmBackend(Policy(rollback="never"), workers=0)) as executor:
        session = executor.session()
        assert session.run("1").value == 1
        runtime.spares.close()
        with monkeypatch.context() as full:
            full.setattr(few, "_limit", 0)
            full.setattr(few, "_allowed", 0)
            session.close()  # what it would be compared with cannot be made
        assert runtime.spares._kept == []
        assert executor.run("2").value == 2 and len(runtime.spares._kept) == 1


def test_the_list_of_maps_is_read_when_it_may_be_too_long_and_not_before(
    few: room.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    there = few._limit - room.MARGIN - 1000 if few._limit is not None else 0
    monkeypatch.setattr(few, "_count", lambda: looked.append(1) or there)
    few.take(10)
    for _ in range(99):
        few.take(10)
    assert len(looked) == 1
    few.take(10)  # those before were given back: the list was as long as at first
    assert len(looked) == 2
    there += 995
    monkeypatch.setattr(few, "_taken", 1000)
    with pytest.raises(EngineError, match="memory maps"):
        few.take(10)
    monkeypatch.setattr(few, "_count", lambda: None)
    few.take(10)  # where it cannot be read there is no telling


def test_a_limit_of_addresses_is_named() -> None:
    code = "from safeexec import run; print(run('1', sandbox='wasm').error)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (8_000_000_000, 8_000_000_000)),
    )
    assert "reserves 4.4 GB of addresses, and this process may have 8.0 GB (ulimit -v)" in done.stdout, done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_full_says_so_and_lives_on() -> None:
    with Executor("wasm", policy=Policy(rollback="never"), workers=1) as executor:
        sessions = []
        while True:
            sessions.append(executor.session())
            result = sessions[-1].run("1")
            if result.error is not None:
                break
            assert len(sessions) < 14_000
        assert "memory maps" in result.error.message and len(sessions) > 11_000
        assert [session.run("2").value for session in sessions[:3]] == [2, 2, 2]
        for session in sessions[:100]:
            session.close()
        assert executor.run("3").value == 3
