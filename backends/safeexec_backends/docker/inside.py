"""What runs in the container around the guest program: the language, and how all of it begins.

Shipped as text next to wire.py and guest.py; CPython 3.9 and later. It defends nothing: the container is the wall.
"""

from __future__ import annotations

import builtins
import os
import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safeexec import guest, wire
    from safeexec_backends import import_rule
    from safeexec_backends.docker import channel as channels
    from safeexec_backends.docker import look, stdio
else:
    try:  # what was shipped comes first: an image may have another version of safeexec installed
        import safeexec_channel as channels
        import safeexec_guest as guest
        import safeexec_import_rule as import_rule
        import safeexec_look as look
        import safeexec_stdio as stdio
        import safeexec_wire as wire
    except ImportError:
        from safeexec import guest, wire
        from safeexec_backends import import_rule
        from safeexec_backends.docker import channel as channels
        from safeexec_backends.docker import look, stdio

_WARM = 0.1
"""Seconds after which a container that is not used yet is one of a pool."""
_CONFIG = "/usr/local/share/safeexec/matplotlib"


class Session(guest.Guest):
    """The guest, told by its channel whether a signal is meant for the step that runs."""

    def handle(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """See the base class."""
        if header.get("t") == "keep":
            self._channel.keep(header)
        else:
            super().handle(header, blobs)

    def on_interrupt(self, *_: Any) -> None:
        """See the base class."""
        if self._channel.interrupted():
            super().on_interrupt()


class Python(guest.Python):
    """The whole language, with `imports` as a rule: what code of the session itself may import."""

    hidden = (__file__, channels.__file__, stdio.__file__)

    def __init__(self, channel: channels.Channel) -> None:
        self.imports: Sequence[str] | None = None
        self._channel = channel

    def compile(self, source: str, filename: str) -> list[Any]:
        """See the base class. Raises KeyboardInterrupt for a word that overtook the step it was about."""
        codes = super().compile(source, filename)
        if self._channel.overtaken():
            raise KeyboardInterrupt
        return codes

    def namespace(self) -> dict[str, Any]:
        """See the base class."""
        namespace = super().namespace()
        if self.imports is not None and "*" not in self.imports:
            builtins.__import__ = import_rule.ImportRule(guest, self.imports, builtins.__import__)
        return namespace


def main(codes: bytes | None, sockets: Sequence[int], later: dict[str, Any]) -> None:
    """Serve, over `sockets` if there are two. `codes` is the compiled program where it had to be compiled here: the host ships it to the containers
    that follow. `later` is the part of it that is not needed yet."""
    channels.later.update(later)
    channel = channels.Channel(*sockets) if sockets else stdio.StdioChannel()
    if codes is not None:
        channel._frames.send({"t": "program", "look": look.look()}, [codes])
    else:
        channel._frames.send({"t": "ready"})
    # All that no session's settings are needed for: a container that waits in a pool has done it when it is taken.
    language = Python(channel)
    session = Session(channel, language)
    channel.start(session)
    _prepare()
    if sockets and not select.select(sockets[:1], [], [], _WARM)[0]:
        channels.load_past()  # nobody waits
    header, _ = channel.recv()
    language.imports = header.get("imports")
    session.serve()
    os._exit(0)


def _prepare() -> None:
    """Matplotlib's font cache, where the image holds one: making it takes seconds."""
    target = os.environ.get("MPLCONFIGDIR")
    if not target or not os.path.isdir(_CONFIG):
        return
    import shutil

    try:
        shutil.copytree(_CONFIG, target, dirs_exist_ok=True)
    except OSError:
        return
