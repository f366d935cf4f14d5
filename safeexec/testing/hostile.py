"""Code that tries to speak the protocol itself gains nothing by it.

Where the language forbids raw descriptors the attempt is refused, which is as good. The protocol's host side is attacked frame by frame in the core's
own tests.
"""

from __future__ import annotations

import json
import struct

import pytest

from safeexec.testing.base import Base


def frame(header: dict[str, object]) -> bytes:
    """The bytes of one frame without blobs."""
    text = json.dumps(header).encode()
    return struct.pack("<II", 4 + len(text), len(text)) + text


FORGED = {
    "done of another request": frame({"t": "done", "id": 999, "v": "forged"}),
    "unknown kind": frame({"t": "root", "id": 1}),
    "call of an unknown tool": frame({"t": "call", "id": 10**6, "tool": "os.system", "a": ["id"], "k": {}}),
    "absurd length": struct.pack("<II", 2**32 - 1, 2**31),
    "deep header": struct.pack("<II", 200_004, 200_000) + b"[" * 200_000,
    "noise": bytes(range(256)) * 10,
    "half a frame": struct.pack("<II", 5000, 100) + b"{",
    "failure as answer": frame({"t": "failure", "id": 1, "type": "X", "message": ""}),
}


class Hostile(Base):
    @pytest.mark.parametrize("data", FORGED.values(), ids=FORGED.keys())
    def test_forged_frames_gain_nothing(self, data: bytes) -> None:
        calls: list[str] = []
        code = """
try:
    import os
    for fd in range(0, 24):
        try:
            os.write(fd, data)
        except Exception:
            pass
except Exception:
    pass
'honest'
"""
        with self.session({"tool": calls.append}, {"data": data}, time=1) as session:
            result = session.run(code)
            if result.error is None:
                assert result.value == "honest"
            else:
                assert result.error.kind in ("protocol", "crash", "policy", "exception", "time"), result.error
            assert calls == []
            self.usable(session)
        assert self.run("1 + 1").value == 2

    def test_closing_every_descriptor_harms_only_the_session(self) -> None:
        code = "try:\n    import os\n    for fd in range(256):\n        try:\n            os.close(fd)\n        except Exception:\n            pass\nexcept Exception:\n    pass\n'alive'"
        with self.session(time=1) as session:
            result = session.run(code)
            assert result.value == "alive" or (
                result.error is not None and result.error.kind in ("crash", "protocol", "policy", "time")
            )
            self.usable(session)
        assert self.run("1 + 1").value == 2

    def test_ending_the_process_harms_only_the_session(self) -> None:
        for attempt in ("os._exit(0)", "os._exit(7)", "os.abort()", "os.kill(os.getpid(), 9)"):
            with self.session() as session:
                result = session.run(f"print('before')\nimport os\n{attempt}")
                assert result.error is not None
                assert result.error.kind in ("crash", "policy", "exception", "exit"), result.error
                assert result.stdout == "before\n"
                self.usable(session)
        assert self.run("1 + 1").value == 2

    def test_native_crash_harms_only_the_session(self) -> None:
        code = "import ctypes\nctypes.string_at(-16)"  # no memory anywhere: at 0 there is some in WebAssembly
        with self.session() as session:
            result = session.run(code)
            assert result.error is not None and result.error.kind in ("crash", "policy", "exception")
            self.usable(session)
        assert self.run("1 + 1").value == 2

    def test_replaced_streams_and_hooks_do_not_hide_the_end(self) -> None:
        code = "try:\n    import sys\n    sys.stdout = None\n    sys.excepthook = None\n    sys.displayhook = None\nexcept Exception:\n    pass\n5"
        with self.session() as session:
            assert session.run(code).value == 5
            assert session.run("print('back')").stdout == "back\n"

    def test_rebound_builtins_break_only_user_code(self) -> None:
        with self.session() as session:
            session.run("len = str = repr = type = isinstance = None\nprint = None")
            assert session.run("[1, 'a']").value == [1, "a"]
            session.run("del len, str, repr, type, isinstance, print")
            assert session.run("len('abc')").value == 3

    def test_wrong_equality_and_hash_run_only_in_the_guest(self) -> None:
        code = "class K(str):\n    def __eq__(self, o):\n        return True\n    def __hash__(self):\n        return 1\n{K('a'): 1, K('b'): 2}"
        value = self.run(code).value
        assert type(value) is dict and all(type(k) is str for k in value)
