"""Spans: names, nesting, attributes, and where they may go."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from safeexec_agent import ModelError, telemetry, tool
from tests.agent.conftest import Make, code
from tests.agent.loopback import body, serving


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    made = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer", lambda name: made.get_tracer(name))
    yield made
    made.shutdown()


@pytest.fixture
def spans(provider: TracerProvider) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@tool
def ping() -> str:
    """Pings."""
    return "pong"


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def test_a_run_with_a_team(make: Make, spans: InMemorySpanExporter) -> None:
    worker = make([code("final_answer(ping())")], [ping], name="worker", description="Pings.")
    make([code("worker('x')"), code("final_answer(2)")], managed_agents=[worker]).run("Go.")
    found = by_name(spans)
    assert {name: len(items) for name, items in found.items()} == {
        "invoke_agent": 1, "invoke_agent worker": 1, "chat scripted": 3, "execute_code": 3, "execute_tool worker": 1,
        "execute_tool ping": 1, "execute_tool final_answer": 2,
    }  # fmt: skip
    (root,) = found["invoke_agent"]
    (inner,) = found["invoke_agent worker"]
    (call,) = found["execute_tool worker"]
    assert root.parent is None and inner.parent.span_id == call.context.span_id
    assert call.parent.span_id in {span.context.span_id for span in found["execute_code"]}
    assert len({span.context.trace_id for span in spans.get_finished_spans()}) == 1
    assert (
        root.attributes["openinference.span.kind"] == "AGENT"
        and root.attributes["gen_ai.operation.name"] == "invoke_agent"
    )
    assert root.attributes["input.value"] == "Go." and root.attributes["output.value"] == "2"
    chat = found["chat scripted"][0]
    assert chat.attributes["gen_ai.request.model"] == "scripted" and chat.attributes["openinference.span.kind"] == "LLM"
    assert chat.attributes["gen_ai.usage.input_tokens"] == chat.attributes["llm.token_count.prompt"] > 0
    assert call.attributes["gen_ai.tool.name"] == call.attributes["tool.name"] == "worker"
    assert "'task': 'x'" in call.attributes["input.value"]


def test_failures_are_marked(make: Make, spans: InMemorySpanExporter) -> None:
    with pytest.raises(ModelError):
        make([code("1 / 0")]).run("Go.")
    found = by_name(spans)
    assert found["execute_code"][0].attributes["error.type"] == "ZeroDivisionError"
    assert (
        found["invoke_agent"][0].attributes["error.type"] == "ModelError" and not found["invoke_agent"][0].status.is_ok
    )


def test_what_a_guest_says_fits_into_a_span(make: Make, spans: InMemorySpanExporter) -> None:
    """An exporter refuses text that is no Unicode, and an int of five thousand digits has no repr: the call must not fail over that."""
    with telemetry.span("TOOL", "x") as span:
        span.fail("\ud800Error" + "x" * 1000, "\ud800")
        span.content(output_value=10**5000)
    (found,) = spans.get_finished_spans()
    assert found.attributes is not None
    kind = str(found.attributes["error.type"])
    assert kind.startswith("\\ud800Error") and len(kind) < 300 and found.attributes["output.value"]


def test_content_is_left_out_when_the_user_says_so(
    make: Make, spans: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "false")
    make([code("final_answer('canary-content')")]).run("canary-task")
    assert "canary" not in str([dict(span.attributes or {}) for span in spans.get_finished_spans()])


def test_spans_reach_an_otlp_endpoint(make: Make, provider: TracerProvider) -> None:
    with serving(body(b"", kind="application/x-protobuf")) as server:
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{server.url}/v1/traces")))
        make([code("final_answer(1)")]).run("Go.")
        paths = {path for _, path, _, _ in server.requests}
        data = b"".join(body for _, _, _, body in server.requests)
    assert paths == {"/v1/traces"}
    for name in (
        b"invoke_agent",
        b"chat scripted",
        b"execute_code",
        b"execute_tool final_answer",
        b"openinference.span.kind",
    ):
        assert name in data


def test_without_opentelemetry_everything_works() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from safeexec_agent import CodeAgent, ScriptedModel\n"
        "with CodeAgent([], ScriptedModel(['<code>final_answer(4)</code>']), sandbox='local', verbosity_level=0) as agent: print(agent.run('x'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "4\n", done.stderr
