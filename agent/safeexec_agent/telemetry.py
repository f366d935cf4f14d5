"""Spans by OpenTelemetry's API: nothing happens without it, or without an SDK behind it.

Names and attributes follow the GenAI semantic conventions (``gen_ai.*``) and OpenInference (``openinference.span.kind``, ``llm.*``), which Langfuse,
Phoenix and others read. Content of messages, code and results is recorded unless
``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` is "false".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from safeexec.wire import describe

_MAX = 32_000
_OPERATIONS = {"AGENT": "invoke_agent", "LLM": "chat", "TOOL": "execute_tool", "CHAIN": "execute_code"}


class Span:
    """One span, or nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, **attributes: Any) -> None:
        """Set attributes; ``_`` in a name stands for ``.``, ``__`` for itself. None is left out."""
        if self._span is None:
            return
        for key, value in attributes.items():
            if value is not None:
                self._span.set_attribute(key.replace("__", "\0").replace("_", ".").replace("\0", "_"), value)

    def content(self, **values: Any) -> None:
        """As :meth:`set`, for what a user may not want recorded; a function is called when it is."""
        if (
            self._span is not None
            and os.environ.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true").lower() != "false"
        ):
            self.set(**{k: _text(v() if callable(v) else v) for k, v in values.items() if v is not None})

    def usage(self, used: Any) -> None:
        """Token counts."""
        if used is not None:
            self.set(gen__ai_usage_input__tokens=used.input_tokens, gen__ai_usage_output__tokens=used.output_tokens)
            self.set(llm_token__count_prompt=used.input_tokens, llm_token__count_completion=used.output_tokens)
            self.set(llm_token__count_total=used.total_tokens)

    def fail(self, kind: str, message: str) -> None:
        """Mark as failed."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self.set(error_type=_text(kind, 200))
            self._span.set_status(Status(StatusCode.ERROR, _text(f"{kind}: {message}", 1000)))

    def end(self) -> None:
        """End it."""
        if self._span is not None:
            self._span.end()


def start(kind: str, name: str, **attributes: Any) -> Span:
    """A span below the current one, not yet current itself."""
    try:
        from opentelemetry import trace
    except ImportError:
        return Span()
    operation = _OPERATIONS[kind]
    made = trace.get_tracer("safeexec_agent").start_span(f"{operation} {name}".strip())
    if not made.is_recording():  # no SDK, or not this trace: then a step shall cost nothing
        return Span()
    span = Span(made)
    span.set(openinference_span_kind=kind, gen__ai_operation_name=operation, **attributes)
    return span


@contextmanager
def inside(span: Span) -> Iterator[None]:
    """`span` is the current one in here; it is not ended."""
    if span._span is None:
        yield
        return
    from opentelemetry import trace

    with trace.use_span(span._span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def span(kind: str, name: str, **attributes: Any) -> Iterator[Span]:
    """A span around the block; an exception marks it as failed and passes on."""
    made = start(kind, name, **attributes)
    try:
        with inside(made):
            yield made
    except BaseException as error:
        made.fail(type(error).__name__, str(error))
        raise
    finally:
        made.end()


def _text(value: Any, length: int = _MAX) -> str:
    # Not its repr: of an int of five thousand digits there is none, and of the largest values there is too much.
    text = value if isinstance(value, str) else describe(value, length)
    return text[:length].encode("utf-8", "backslashreplace").decode()
