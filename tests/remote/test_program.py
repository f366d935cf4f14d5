"""The guest as one text: it runs anywhere, and takes nothing from the place it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from safeexec import Policy, guest, wire
from safeexec.bundle import guest_source
from safeexec.errors import PolicyError
from safeexec_backends._remote import program
from safeexec_backends._remote.lines import HISTORY, Receiver, Sender
from safeexec_backends.import_rule import ImportRule

OTHERS = sorted(Path("/root/.pyenv/versions").glob("3.9*/bin/python3")) if os.access("/root/.pyenv", os.R_OK) else []


def test_guest_takes_the_wire_that_came_with_it() -> None:
    """Also where another safeexec is installed, as here."""
    code = guest_source() + "import safeexec_guest as g\nprint(g.wire.__file__, g.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["<safeexec_wire>", "<safeexec_guest>"], done.stderr


def test_relay_takes_the_lines_that_came_with_it() -> None:
    words = program.arguments(Policy(), sys.executable)
    words[-2] = words[-2].replace(
        "sys.modules['safeexec_relay'].main", "print(sys.modules['safeexec_relay'].lines.__file__);str"
    )
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.stdout.strip() == "<safeexec_lines>", done.stderr


def test_program_fits_into_a_command() -> None:
    assert len(program.command(Policy(), "python3")) < 60_000  # Modal takes 64 KiB


def test_relay_on_the_oldest_python() -> None:
    if not OTHERS:
        pytest.skip("there is no Python 3.9 under /root/.pyenv")
    words = program.arguments(Policy(), str(OTHERS[0]))
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
    kinds = [kind for kind, _ in Receiver().feed(done.stdout)]
    assert kinds == ["h", "x"], done.stderr


@pytest.mark.parametrize(
    ("name", "patterns", "allowed"),
    [
        ("json", ("json",), True),
        ("json", (), False),
        ("os.path", ("os",), True),
        ("urllib", ("urllib.parse",), True),
        ("urllib.parse", ("urllib.parse",), True),
        ("urllib.request", ("urllib.parse",), False),
        ("numpy", ("numpy.*",), True),
        ("numpy.linalg", ("numpy.*",), True),
        ("numpy.linalg", ("numpy",), False),
        ("numpyx", ("numpy.*",), False),
        ("anything", ("*",), True),
    ],
)
def test_import_rule(name: str, patterns: tuple[str, ...], allowed: bool) -> None:
    rule = ImportRule(guest, program.import_patterns(Policy(imports=patterns)), __import__)
    assert rule.allows(name) is allowed


@pytest.mark.parametrize("good", ["numpy", "a.b_c-d", "x==1.0", "x>=1,<2", "x[extra,more]>=1"])
def test_requirements(good: str) -> None:
    assert program.requirements([good]) == [good]
    with pytest.raises(PolicyError):
        program.requirements([good, "--pre"])


def test_import_rule_looks_at_what_is_taken_from_a_package() -> None:
    rule = ImportRule(guest, ("urllib.parse", "os", "xml.etree"), __import__)
    assert rule.allows("urllib", ("parse",)) and not rule.allows("urllib", ("request",))
    assert rule.allows("os", ("path", "sep")) and rule.allows("os.path")
    assert rule.allows("xml.etree.ElementTree") and not rule.allows("xml.dom")


ORDINARY = """
import datetime, time, json, collections.abc, os.path, decimal
from urllib.parse import quote
found = [datetime.datetime.strptime("2026-11-20", "%Y-%m-%d").year, time.strptime("1999", "%Y").tm_year]
found.append(json.loads("[1]"))
try:
    import fractions
except ImportError as error:
    found.append(str(error).partition(";")[0])
found
"""


class Driven:
    """A relay in a process of this machine, and both ends of its stream."""

    def __init__(self, policy: Policy, python: str = sys.executable) -> None:
        words = program.arguments(policy, python)
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.sender, self.receiver = Sender(), Receiver()
        self.raw = bytearray()

    def send(self, kind: str, body: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(self.sender.line(kind, body))
        self.process.stdin.flush()

    def request(self, header: wire.Header) -> bytes:
        """Everything up to the answer."""
        self.send("d", b"".join(map(bytes, wire.pack(header))))
        data = b""
        while b'"done"' not in data:
            data += b"".join(body for kind, body in self.receiver.feed(self.read()) if kind == "d")
        return data

    def read(self) -> bytes:
        assert self.process.stdout is not None
        piece = os.read(self.process.stdout.fileno(), 65536)
        assert piece, "the relay ended"
        self.raw += piece
        return piece

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.mark.parametrize("python", [sys.executable, *map(str, OTHERS[:1])])
def test_import_rule_leaves_the_libraries_alone(python: str) -> None:
    policy = Policy(imports=("datetime", "time", "json", "collections", "os", "decimal", "urllib.parse"))
    with Driven(policy, python) as relay:
        relay.request({"t": "init", "id": 1})
        data = relay.request({"t": "run", "id": 2, "code": ORDINARY}).replace(b", ", b",")
    assert b"[2026,1999,[1],\"Import of 'fractions' is not allowed\"]" in data, data


def test_relay_sends_again_what_a_host_has_not_seen() -> None:
    with Driven(Policy()) as driven:
        driven.request({"t": "init", "id": 1})
        driven.request({"t": "run", "id": 2, "code": "print('x' * 200_000)"})
        whole = list(Receiver().feed(bytes(driven.raw)))
        for seen in (0, 1, len(whole) - 1, len(whole)):
            again, got = Receiver(), []
            again.seen = seen
            driven.send("r", b"%d" % seen)
            while again.seen < len(whole):
                got += list(again.feed(driven.read()))
            assert got == whole[seen:]
        assert b"4" in driven.request({"t": "run", "id": 3, "code": "2 + 2"})


def test_relay_ends_for_a_host_that_is_too_far_behind() -> None:
    with Driven(Policy()) as driven:
        driven.request({"t": "init", "id": 1, "limits": {"output": 10**8}})
        driven.request({"t": "run", "id": 2, "code": f"print('x' * {HISTORY})"})
        driven.send("r", b"0")
        assert driven.process.wait(10) == 0
