"""Every host function under hostile arguments: an error number or a stopped guest, never a fault of the host."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safeexec_backends.wasm import abi
from safeexec_backends.wasm import errno as e
from tests.wasm.hostile_guest import FUNCTIONS, SIZE, Hostile, words

EDGES = (0, 1, 3, 64, SIZE - 1, SIZE, SIZE + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFF9C, 0xFFFFFFFF)
NAMES = sorted(name for _, name in FUNCTIONS)
WORDS = {name: words(call[1]) for (_, name), call in FUNCTIONS.items()}


@pytest.fixture
def guest() -> Iterator[Hostile]:
    guest = Hostile()
    yield guest
    guest.close()


@pytest.mark.parametrize("name", NAMES)
def test_edge_values_in_every_argument(name: str) -> None:
    count = WORDS[name]
    # All combinations for up to three words; beyond that each edge everywhere, and each edge alone among valid values.
    if count <= 3:
        cases = list(itertools.product(EDGES, repeat=count))
    else:
        cases = [(edge,) * count for edge in EDGES]
        for position, edge, valid in itertools.product(range(count), EDGES, (3, 1024)):
            case = [valid] * count
            case[position] = edge
            cases.append(tuple(case))
    guest = Hostile()
    try:
        before = guest.instance.memory.size
        for case in cases:
            guest.call(name, *case)
            if guest.host.files.files.keys() < {3, 4, 5}:
                guest.close()
                guest = Hostile()
        assert guest.instance.memory.size <= max(before, 16 * abi.PAGE)
        assert guest.host.failure is None
    finally:
        guest.close()


word = st.one_of(st.sampled_from(EDGES), st.integers(0, 4200), st.integers(0, 0xFFFFFFFF))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.sampled_from(NAMES).flatmap(
            lambda name: st.tuples(st.just(name), st.lists(word, min_size=WORDS[name], max_size=WORDS[name]))
        ),
        max_size=30,
    ),
    st.binary(max_size=600),
)
def test_any_sequence_of_calls_on_any_memory(calls: list[tuple[str, list[int]]], content: bytes) -> None:
    guest = Hostile()
    try:
        guest.host.memory.write(0, content * (4096 // max(len(content), 1)))
        for name, arguments in calls:
            guest.call(name, *arguments)
        assert guest.host.files.used <= guest.host.files.quota.bytes
        assert guest.host.files.inodes <= guest.host.files.quota.inodes
        assert len(guest.host.files.files) <= guest.host.files.quota.open_files
        assert guest.host.memory.size <= 16 * abi.PAGE
    finally:
        guest.close()


def test_vector_count_that_overflows_is_refused(guest: Hostile) -> None:
    # 8 * count is 2**32 + 8: in 32-bit arithmetic that would be 8 bytes.
    assert guest.call("fd_write", 3, 0, 0x20000001, 64) == e.EINVAL


def test_what_code_added_to_the_memory_by_itself_is_read_and_written_whole(guest: Hostile) -> None:
    """A package's code may grow memory without asking the host."""
    memory, same = guest.host.memory, guest.instance.look()
    before = memory.size
    assert same.grow(1)
    same.write(before - 4, b"abcdefgh")
    assert memory.size == before
    assert memory.read(before - 4, 8) == b"abcdefgh"
    assert same.grow(1)
    before = memory.size
    memory.write(before - 4, b"ABCDEFGH")
    assert same.read(before - 4, 8) == b"ABCDEFGH"


def test_vector_that_reaches_past_the_memory_is_refused_before_anything_is_written(guest: Hostile) -> None:
    memory = guest.host.memory
    for offset, value in ((0, 100), (4, 10), (8, SIZE - 4), (12, 5)):
        memory.set_u32(offset, value)
    before = guest.host.files.files[3].position
    assert guest.call("fd_write", 3, 0, 2, 64) == e.EFAULT
    assert guest.host.files.files[3].position == before


def test_range_that_ends_at_the_last_byte_is_served(guest: Hostile) -> None:
    guest.host.killed = False
    assert guest.call("random_get", SIZE - 16, 16) == 0
    assert guest.call("random_get", SIZE - 16, 17) == e.EFAULT


def test_overlapping_vectors_and_result(guest: Hostile) -> None:
    memory = guest.host.memory
    memory.write(0, b"".join(n.to_bytes(4, "little") for n in (0, 16, 0, 16)))
    assert guest.call("fd_read", 3, 0, 2, 4) == 0
    assert memory.u32(4) == 32


def test_path_without_an_end_is_refused(guest: Hostile) -> None:
    guest.host.memory.write(SIZE - 100, b"/" + b"a" * 99)
    assert guest.call("__syscall_chdir", SIZE - 100) == -e.EFAULT & abi.MASK32
    guest.host.memory.write(0, b"/" + b"a/" * 4000)
    assert guest.call("__syscall_chdir", 0) == -e.ENAMETOOLONG & abi.MASK32


@pytest.mark.parametrize("pointer", [0xFFFF0000, SIZE - 1, 0x80000000, SIZE])
def test_allocator_that_returns_a_hostile_pointer(guest: Hostile, pointer: int) -> None:
    guest.instance.call("set_allocator", pointer, 0)
    assert guest.call("_mmap_js", 4096, 3, 1, 3, 0, 0, 8, 12) in (-e.EFAULT & abi.MASK32, None)


def test_allocator_that_closes_the_file_it_maps(guest: Hostile) -> None:
    assert guest.call("emscripten_resize_heap", 3 * abi.PAGE) == 1  # room for what is behind the mapping
    guest.instance.call("set_allocator", abi.PAGE, 1)
    assert guest.call("_mmap_js", 4096, 3, 1, 3, 0, 0, 8, 12) == 0
    assert 3 not in guest.host.files.files


def test_allocator_that_maps_without_end_is_stopped(guest: Hostile) -> None:
    assert guest.call("emscripten_resize_heap", 3 * abi.PAGE) == 1
    guest.instance.call("set_allocator", abi.PAGE, 2)
    for _ in range(3):
        guest.call("_mmap_js", 4096, 3, 1, 3, 0, 0, 8, 12)
    other = Hostile()
    assert other.call("__syscall_getuid32_js") == 0
    other.close()


def test_host_without_python_frames_left_refuses_before_the_guest_runs(guest: Hostile) -> None:
    outcomes = []

    def descend(depth: int) -> None:
        try:
            outcomes.append(guest.instance.call("__syscall_umask_js", 18))
        except RecursionError:
            outcomes.append(-1)
        descend(depth + 1)

    with pytest.raises(RecursionError):
        descend(0)
    # Near the end of the host's stack the call is refused; never answered without having run.
    assert set(outcomes) == {18, -1}
    assert guest.host.failure is None


def test_write_far_beyond_the_quota_costs_nothing(guest: Hostile) -> None:
    assert guest.call("fd_seek", 3, 0xFFFFFFF0, 0x3FFF, 0, 64) == 0
    guest.host.memory.write(0, (100).to_bytes(4, "little") + (1).to_bytes(4, "little"))
    assert guest.call("fd_write", 3, 0, 1, 64) == e.EFBIG
    assert guest.host.files.used == 5000
    assert guest.call("__syscall_ftruncate64", 3, 0, 0x40000000) == -e.EFBIG & abi.MASK32


def test_frame_that_was_not_announced_stops_the_guest(guest: Hostile) -> None:
    assert guest.call("reply", 0, 4) is None
    assert guest.call("reply", 0, 0xFFFFFFFF) is None


def test_frame_in_endless_parts_is_stopped(guest: Hostile) -> None:
    for _ in range(3000):
        if guest.call("part", 0, 65536, 1) is None:
            break
    assert guest.host.parts_size <= (64 << 20) + 65536
    assert guest.host.parts_size > 32 << 20


def test_frame_in_many_small_parts_is_counted_as_what_it_takes(guest: Hostile) -> None:
    guest.host.memory.write(0, b"ab")
    assert guest.call("part", 0, 2, 1) == 0
    took = sys.getsizeof(guest.host.parts[0]) + 8
    assert guest.host.parts_size >= took > 2
    assert guest.call("part", 0, 2, 0) == 0
    assert guest.host.parts_size == 0
    assert guest.frames == [b"abab"]


def test_frame_in_one_part_that_is_too_large_is_not_copied(guest: Hostile) -> None:
    guest.host.parts_size = (64 << 20) - 10
    assert guest.call("part", 0, 11, 0) is None
    assert guest.frames == []


def test_frame_arrives_when_its_last_part_does(guest: Hostile) -> None:
    guest.host.memory.write(0, b"abcdef")
    assert guest.call("part", 0, 2, 1) == 0
    assert guest.frames == []
    assert guest.call("part", 2, 4, 0) == 0
    assert guest.call("part", 0, 1, 0) == 0
    assert guest.frames == [b"abcdef", b"a"]


def test_growth_stops_at_the_limit(guest: Hostile) -> None:
    assert guest.call("emscripten_resize_heap", 0xFFFFFFFF) == 0
    assert guest.call("emscripten_resize_heap", 17 * abi.PAGE) == 0
    assert guest.call("emscripten_resize_heap", 16 * abi.PAGE) == 1
    assert guest.host.memory.size == 16 * abi.PAGE
    # The view follows the growth, and still ends where the memory does.
    guest.host.killed = False
    assert guest.call("random_get", 16 * abi.PAGE - 1, 1) == 0
    assert guest.call("random_get", 16 * abi.PAGE, 1) == e.EFAULT


def test_calendar_of_any_second(guest: Hostile) -> None:
    for low, high in ((0xFFFFFFFF, 0x7FFFFFFF), (0, 0x80000000), (0, 0), (951782400, 0)):
        assert guest.call("_gmtime_js", low, high, 128) == 0
    # 2000-02-29, a Tuesday, day 59 of the year
    fields = [guest.host.memory.u32(128 + 4 * n) for n in range(8)]
    assert fields == [0, 0, 0, 29, 1, 100, 2, 59]
    assert guest.call("_timegm_js", 128) == 951782400


def test_kill_reaches_a_guest_that_waits() -> None:
    import threading

    guest = Hostile(killed=False)
    guest.host.inbox.clear()
    timer = threading.Timer(0.05, guest.host.kill)
    timer.start()
    assert guest.call("reply_size") is None
    timer.join()
    guest.close()
