"""Memory for what is large in a process that is copied again and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from safeexec import Executor, Limits, Policy
from safeexec_backends._hardening import blocks
from safeexec_backends.local import launch

pytestmark = pytest.mark.skipif(os.name != "posix" or not hasattr(os, "pidfd_open"), reason="n/a: Linux's processes")

SIZES = (0, 1, 5000, blocks._LARGE - 1, blocks._LARGE, blocks._LARGE + 1, 9 << 20)


@pytest.mark.parametrize("missing", [(), ("_set",), ("_trim",), ("_advise",)])
def test_rooms_hold_what_is_written(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:  # as where the C library is another
        monkeypatch.setattr(blocks, name, None)
    for size in SIZES:
        room = blocks.room(size)
        with room.getbuffer() as view:
            assert len(view) == size
            view[:] = os.urandom(64) * (size // 64) + bytes(size % 64)
            expected = bytes(view)
        assert type(room.getvalue()) is bytes and room.getvalue() == expected


LOOKS = """
import ctypes
from safeexec_backends._hardening import blocks

def where(address):
    for line in open("/proc/self/maps"):
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[5:]

old = b"x" * (10 << 20)
print(where(id(old)))
del old  # the heap has room for it now
made = blocks.room(10 << 20)
with made.getbuffer() as view:
    print(where(ctypes.addressof(ctypes.c_char.from_buffer(view))))
print(where(id(b"y" * (8 << 20))))
"""


@pytest.mark.skipif(blocks._set is None, reason="n/a: the GNU C library's")
def test_a_large_one_is_a_mapping_of_its_own_and_others_stay_in_the_heap() -> None:
    environment = {
        "MALLOC_MMAP_THRESHOLD_": str(blocks.THRESHOLD),
        "MALLOC_TRIM_THRESHOLD_": str(2**27),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    made = subprocess.run([sys.executable, "-c", LOOKS], env=environment, capture_output=True, text=True, timeout=60)
    assert made.stdout.splitlines() == ["['[heap]']", "[]", "['[heap]']"], made.stderr


def test_the_heap_is_as_the_zygote_set_it_afterwards() -> None:
    assert f"2**{blocks.THRESHOLD.bit_length() - 1}" in Path(launch.__file__).read_text()
    assert blocks.THRESHOLD == 2**25


def test_each_state_has_its_own_large_value(executor: Executor) -> None:
    policy = Policy(limits=Limits(time=2, memory=512 << 20, value=64 << 20))
    with executor.session(policy=policy) as session:
        for number in range(4):
            value = bytes([number]) * (6 << 20)
            session.variables["data"] = value
            assert session.run("data").value == value
            result = session.run("data = b'gone'\nwhile True:\n    pass")
            assert result.error is not None and result.rolled_back
            assert session.variables["data"] == value
