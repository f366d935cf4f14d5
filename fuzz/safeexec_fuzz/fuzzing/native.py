"""Bytes for what reads bytes: frames, source text, system calls on files. By atheris with coverage, or by hypothesis without.

A target is a function of bytes that returns for whatever it is given, or raises what it has found. Rooms offer theirs in the entry-point group
``safeexec.fuzz``, so that this package needs to import none of them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

from safeexec import wire

GROUP = "safeexec.fuzz"
One = Callable[[bytes], None]


def targets() -> dict[str, One]:
    """Name to function. What cannot be loaded here is left out."""
    found: dict[str, One] = {}
    for point in entry_points(group=GROUP):
        found[point.name] = point.load()
    return dict(sorted(found.items()))


def findings() -> list[tuple[str, str, bytes]]:
    """(target, name, bytes) of what was found before, to be replayed always. Files named ``target--name.bin``."""
    folder = files("safeexec_fuzz") / "corpus" / "findings"
    found = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        target, mark, name = file.name.removesuffix(".bin").partition("--")
        if mark and file.name.endswith(".bin"):
            found.append((target, name, file.read_bytes()))
    return found


def frames(data: bytes) -> None:
    """The frame decoder and the value codec take any bytes: plain data or WireError, nothing else, and never more than the limit."""
    position = 0

    def readinto(buffer: memoryview) -> int:
        nonlocal position
        piece = data[position : position + min(len(buffer), 1 + position % 7 * 100)]
        buffer[: len(piece)] = piece
        position += len(piece)
        return len(piece)

    reader = wire.FrameReader(readinto, 1 << 16, 10_000)
    try:
        for _ in range(50):
            header, blobs = reader.next()
            decode(header, blobs)
    except (wire.WireError, EOFError):
        pass
    try:
        decode(*wire.unpack(data, 10_000))
    except wire.WireError:
        return


def decode(header: wire.Header, blobs: Sequence[wire.Blob]) -> None:
    """Decode every field as if it were a value, and encode what came of it again."""
    for node in list(header.values()):
        try:
            value = wire.Decoder(blobs, limit=100_000).decode(node)
        except wire.WireError:
            continue
        try:
            encoder = wire.Encoder(10_000_000)
            again = wire.Decoder(encoder.blobs, limit=10_000_000).decode(encoder.encode(value))
        except wire.TooLarge:
            continue
        if repr(again) != repr(value):
            raise AssertionError(f"{value!r:.200} came back as {again!r:.200}")


def have_atheris() -> bool:
    """Whether coverage-guided fuzzing can run here."""
    return importlib.util.find_spec("atheris") is not None


def guided(name: str, seconds: int, findings: Path) -> tuple[bool, str]:
    """Run atheris on a target for a while. Whether nothing was found, and the end of what it said."""
    with tempfile.TemporaryDirectory(prefix="safeexec-fuzz-") as corpus:
        command = [
            sys.executable, "-P", "-m", "safeexec_fuzz.fuzzing.native", name, corpus, f"-max_total_time={seconds}", "-max_len=8192", "-timeout=20",
            "-rss_limit_mb=2048", f"-artifact_prefix={findings}/{name}-", "-print_final_stats=1",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds + 120,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )
    return done.returncode == 0, done.stderr[-3000:]


def _main() -> None:
    import atheris

    with atheris.instrument_imports(include=["safeexec", "safeexec_backends"]):
        importlib.import_module("safeexec.wire")
        one = targets()[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    for name in [n for n in sys.modules if n.startswith("safeexec.wire")]:
        del sys.modules[name]  # imported before it could be instrumented
    _main()
