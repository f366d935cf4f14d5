"""What a step has come to: the guest's answer, its death, the clocks and the tools' log, as one result."""

from __future__ import annotations

from time import monotonic
from typing import Any

from safeexec import answers, wire
from safeexec.errors import ProtocolError
from safeexec.policy import Limits
from safeexec.result import FileInfo, GuestError, Result, Usage
from safeexec.step import Step, number_field
from safeexec.travel import DISCARD

_PLAIN = frozenset({type(None), bool, int, float})
"""What is its own node, of whatever size."""
_DEATHS = {"memory": "MemoryError", "time": "TimeoutError", "output": "OutputLimitExceeded", "crash": "Crash"}


def result_of(step: Step, limits: Limits, peak: int, closed: str | None) -> Result:
    """The result of a step that has come to its end.

    `peak` is the most memory that steps before it were seen to use, in bytes; `closed` says why the session was ended meanwhile, if it was.
    """
    error: GuestError | None = None
    value: Any = None
    files: tuple[FileInfo, ...] = ()
    cpu = 0.0
    try:
        if step.broken is not None:
            raise ProtocolError(step.broken)
        if step.died is None:
            answer = step.answer
            if "error" in answer or "fail" in answer:
                error = answers.guest_error(answer.get("error")) or answers.own_failure(answer)
            if error is None and "v" in answer:
                value = answer["v"]
                if type(value) not in _PLAIN:
                    value = wire.Decoder(step.blobs, limit=limits.value).decode(value)
            cpu = number_field(answer, "cpu")
            peak = max(peak, int(number_field(answer, "rss")))
            if "files" in answer:
                files = answers.file_list(answer["files"])
            if answer.get("cut") is True:
                step.truncated = True
    except (ProtocolError, wire.WireError) as trouble:
        error, value, files = GuestError("protocol", "ProtocolError", str(trouble)), None, ()
    if step.expired is not None:
        trace = error or GuestError("time", "", "")
        error = GuestError("time", "TimeoutError", step.expired, trace.traceback, trace.line)
        value = None
    elif step.died is not None:
        if step.interrupted:
            error = GuestError("exception", "KeyboardInterrupt", "the step was interrupted and did not stop by itself")
        elif closed is not None:
            error = GuestError("crash", "SessionClosed", f"{closed} while the step ran")
        else:
            error = GuestError(step.died.kind, _DEATHS.get(step.died.kind, "GuestDied"), step.died.message)
    calls = tuple(step.broker.log) if step.broker is not None else ()
    ended = step.broker is not None and step.broker.ended
    if ended and step.died is None and step.expired is None and (error is None or error.kind not in DISCARD):
        error, value = None, None  # how the guest unwound is of no interest, and what it says now changes nothing
    out, err = step.streams
    return Result(
        value=value,
        stdout=out.text(),
        stderr=err.text(),
        error=error,
        displays=tuple(step.displays),
        files=files,
        usage=Usage(monotonic() - step.clock.started, cpu, peak, len(calls)),
        tool_calls=calls,
        network=step.net.log if step.net is not None else (),
        truncated=step.truncated or out.truncated or err.truncated,
        ended=ended,
    )
