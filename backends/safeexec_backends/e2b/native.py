"""``native=True``: steps run by the template's own code interpreter (a Jupyter kernel) instead of the common guest.

What it gives: the rich results of the interpreter, as `displays`. What it costs: no host tools (a session with tools raises PolicyError), no soft interrupt (an
interrupted step ends its session), no import rule, no memory limit, no processor time in `usage`; values arrive as their text, which is read back only
where it is plain Python data.
"""

from __future__ import annotations

import ast
import base64
import binascii
import json
import queue
import re
import threading
from collections.abc import Callable
from typing import Any

from safeexec import wire
from safeexec.backend import Guest, GuestDied, OnFrame
from safeexec.errors import NotSupported, PolicyError
from safeexec.policy import Policy
from safeexec_backends._remote.faults import Fault, Gone, Secret, retry
from safeexec_backends._remote.guest import log
from safeexec_backends.e2b.faults import translated
from safeexec_backends.e2b.transport import REQUEST_TIMEOUT

HOME = "/home/user"
_MIMES = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "pdf": "application/pdf",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
    "data": "application/vnd.e2b.data+json",
}
_BINARY = ("png", "jpeg", "pdf")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_LITERAL = 20_000
_MOST = 2000
"""Files that are listed, and folders that are looked into."""
_STRINGS = re.compile(r"""b?'(?:[^'\\\n]|\\.)*'|b?"(?:[^"\\\n]|\\.)*\"""")
_REST = re.compile(
    r"(?:[\s,:\[\]{}()]|(?<![\w.)\]}])-?\d[\d.e]*(?:e[+-]\d+)?(?![\w.+-])|\bTrue\b|\bFalse\b|\bNone\b|S)*"
)


def check_native(policy: Policy) -> None:
    """Refuse what the code interpreter cannot honour. Raises PolicyError."""
    if policy.network:
        raise PolicyError(
            "Policy.network: E2B's code interpreter has no way to ask the host; leave it empty, or native=False"
        )
    if "memory" in policy.limits.changed():
        raise PolicyError("Limits.memory cannot be set with native=True: the template's machine bounds it")
    if policy.imports not in (None, ("*",)):
        raise PolicyError("Policy.imports cannot be restricted with native=True: leave it None, or '*'")


class NativeGuest(Guest):
    """Answers the core's requests by calls of E2B's SDK."""

    def __init__(
        self, sandbox: Any, policy: Policy, key: Secret, timeout: int, forget: Callable[[Guest], object]
    ) -> None:
        self.sandbox = sandbox
        self._policy = policy
        self._key = key
        self._timeout = timeout
        self._forget = forget
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ended: GuestDied | None = None
        self._destroyer: threading.Thread | None = None

    def exchange(self, frame: wire.Frame, on_frame: OnFrame) -> None:
        header, blobs = frame
        if header.get("tools"):
            raise PolicyError("native=True cannot call host tools: leave tools empty, or native off")
        if header["t"] == "module":
            raise NotSupported("native=True cannot take modules of the host: leave native off")
        events = self._events = queue.SimpleQueue()
        if self._ended is not None:
            raise GuestDied(self._ended.kind, self._ended.message)
        # In a thread: a call of the SDK cannot be broken off, but whoever waits for it must be free to go when the guest is killed.
        threading.Thread(target=self._work, args=(header, blobs, events), name="safeexec-native", daemon=True).start()
        while True:
            event = events.get()
            if isinstance(event, Exception):
                raise event
            if on_frame(event):
                return

    def _work(self, header: wire.Header, blobs: Any, events: queue.SimpleQueue[Any]) -> None:
        answer: dict[str, Any] = {"t": "done", "id": header.get("id")}
        encoder = wire.Encoder(max(self._policy.limits.value, self._policy.limits.disk))
        try:
            with translated(self._key):
                getattr(self, "_do_" + header["t"])(header, blobs, answer, encoder, events)
            events.put((answer, encoder.blobs))
        except Gone as error:
            self.fail(f"the sandbox is gone: {error}")
        except Fault as error:
            self.fail(f"the connection to the sandbox was lost: {error}")
        except Exception as error:
            log.exception("a call to sandbox %s failed", self.sandbox.sandbox_id)
            self.fail(f"a call to the sandbox failed: {type(error).__name__}")

    # -- requests: each fills in the answer ------------------------------------------------------------------------------

    def _do_init(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        answer["protocol"] = 1

    def _do_rescan(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        return

    def _do_run(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        def output(number: int) -> Callable[[Any], None]:
            return lambda message: events.put(
                ({"t": "out", "s": number}, [str(message.line).encode("utf-8", "replace")])
            )

        def result(item: Any) -> None:
            show = _display(item)
            # The value's text is the value, below; it is shown as well only where it has other forms.
            if not item.is_main_result or set(show) - {"text/plain"}:
                events.put(({"t": "display", "m": list(show)}, list(show.values())))

        # No timeout of the call's own, and no second try: the core's clock ends the step, and it may have begun.
        execution = self.sandbox.run_code(
            header["code"],
            on_stdout=output(1),
            on_stderr=output(2),
            on_result=result,
            envs=dict(self._policy.env),
            timeout=0,
            request_timeout=REQUEST_TIMEOUT,
        )
        if execution.error is not None:
            answer["error"] = _error(execution.error)
            return
        for item in execution.results:
            if item.is_main_result:
                answer["v"] = encoder.encode(_value(item))

    def _do_set(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        decoder = wire.Decoder(blobs)
        lines = []
        for name, node in header["v"].items():
            value = decoder.decode(node)
            text = repr(value)
            if not _is_literal(text) or ast.literal_eval(text) != value:
                answer["fail"] = {
                    "type": "OSError",
                    "message": f"variable {name!r} has no literal form, which native=True needs",
                }
                return
            lines.append(f"{name} = {text}")
        self._quiet("\n".join(lines), answer)

    def _do_get(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        execution = self._quiet(header["name"], answer)
        if execution is not None and execution.error is None:
            main = [item for item in execution.results if item.is_main_result]
            answer["v"] = encoder.encode(_value(main[0]) if main else None)

    def _do_del(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        self._quiet(f"del {header['name']}", answer)

    def _do_names(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        execution = self._quiet("[n for n in list(globals()) if not n.startswith('_')]", answer)
        if execution is not None:
            main = [_value(item) for item in execution.results if item.is_main_result]
            answer["v"] = main[0] if main else []

    def _quiet(self, code: str, answer: Any) -> Any:
        execution = self.sandbox.run_code(code, timeout=REQUEST_TIMEOUT)
        if execution.error is not None:
            kind = "KeyError" if execution.error.name == "NameError" else "OSError"
            answer["fail"] = {"type": kind, "message": str(execution.error.value)[:2000]}
            return None
        return execution

    def _do_read(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        from e2b import NotFoundException

        at = header.get("at", 0)
        try:
            data = self._content(header["name"], at + header["size"])
        except NotFoundException:
            answer["fail"] = {"type": "FileNotFoundError", "message": header["name"]}
            return
        answer["v"] = encoder.encode(data[at:])

    def _content(self, name: str, size: int) -> bytes:
        """A file's first `size` bytes. As a stream: the file may be as large as the vendor's disk, or have no end, and would be held here whole."""
        found = bytearray()
        with self.sandbox.files.read(f"{HOME}/{name}", format="stream") as pieces:
            for piece in pieces:
                found += piece[: size - len(found)]
                if len(found) == size:
                    break
        return bytes(found)

    def _do_write(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        before = self._content(header["name"], self._policy.limits.disk) if header.get("append") else b""
        self.sandbox.files.write(f"{HOME}/{header['name']}", before + bytes(blobs[0]))

    def _do_remove(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        from e2b import NotFoundException

        try:
            self.sandbox.files.remove(f"{HOME}/{header['name']}")
        except NotFoundException:
            answer["fail"] = {"type": "FileNotFoundError", "message": header["name"]}

    def _do_list(self, header: Any, blobs: Any, answer: Any, encoder: wire.Encoder, events: Any) -> None:
        found: list[list[Any]] = []
        folders, seen = [HOME], 0
        # A sandbox that was taken over may have folders without end.
        while folders and len(found) < _MOST and seen < _MOST:
            seen += 1
            for entry in self.sandbox.files.list(folders.pop()):
                if entry.name.startswith("."):
                    continue
                if getattr(entry.type, "value", None) == "dir":
                    folders.append(entry.path)
                else:
                    found.append([entry.path.removeprefix(HOME + "/"), int(entry.size or 0)])
        answer["v"] = encoder.encode(found)

    # -- ending ----------------------------------------------------------------------------------------------------------

    def send(self, frame: wire.Frame) -> None:
        raise GuestDied("crash", "native=True has no tools")

    def interrupt(self) -> None:
        return  # the SDK cannot interrupt a kernel: the core ends the sandbox when its patience does

    def keep(self) -> None:
        """Put off the sandbox's expiry. Raises Fault."""
        with translated(self._key):
            self.sandbox.set_timeout(self._timeout, request_timeout=REQUEST_TIMEOUT)

    def fail(self, reason: str) -> None:
        """Take note that the sandbox is lost, and see to it that it ends."""
        with self._lock:
            if self._ended is None:
                self._ended = GuestDied("crash", reason)
            self._events.put(self._ended)
            if self._destroyer is None:
                destroyer = threading.Thread(target=self._destroy, name="safeexec-destroy", daemon=True)
                try:
                    destroyer.start()
                except RuntimeError:  # there is no thread to be had: close() does it then
                    return
                self._destroyer = destroyer

    def _destroy(self) -> None:
        def kill() -> None:
            with translated(self._key):
                self.sandbox.kill(request_timeout=REQUEST_TIMEOUT)

        try:
            retry(kill)
        except Gone:
            pass
        except Fault as error:
            log.warning("sandbox %s could not be ended, it stays until it expires: %s", self.sandbox.sandbox_id, error)

    def kill(self) -> None:
        self.fail("the sandbox was killed by the host")

    def close(self) -> None:
        self.kill()
        if self._destroyer is not None:
            self._destroyer.join()
        else:
            self._destroy()
        self._forget(self)


def _display(item: Any) -> dict[str, bytes]:
    """The forms of one result, by MIME type. What claims to be base64 and is not is left out."""
    found = {}
    for name in item.formats():
        body = item[name] if name in _MIMES else None
        if body is None:
            continue
        if name in _BINARY:
            try:
                data = base64.b64decode(body, validate=True)
            except (binascii.Error, ValueError, TypeError):
                continue
        else:
            data = (body if isinstance(body, str) else json.dumps(body)).encode("utf-8", "replace")
        found[_MIMES[name]] = data
    return found


def _is_literal(text: str) -> bool:
    """Whether `text` is flat enough for the parser: no operators to chain, few brackets. A parser recurses, and the text is hostile."""
    if len(text) > _LONGEST_LITERAL:
        return False
    bare = _STRINGS.sub("S", text)
    depth = deepest = 0
    for mark in bare:
        depth += (mark in "[{(") - (mark in "]})")
        deepest = max(deepest, depth)
    return deepest <= 20 and _REST.fullmatch(bare) is not None


def _value(item: Any) -> Any:
    """The value of a result: its text read back where that is plain data, else the text."""
    text = item.text or ""
    if _is_literal(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            pass  # only looked like data
    return wire.Opaque("result", text[:5000])


def _error(error: Any) -> dict[str, Any]:
    name = str(error.name)[:200]
    kind = {"SystemExit": "exit", "MemoryError": "memory"}.get(name, "exception")
    return {
        "kind": kind,
        "type": name,
        "message": str(error.value)[:20_000],
        "traceback": _COLOUR.sub("", str(error.traceback))[:50_000],
    }
