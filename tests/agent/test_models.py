"""Models: the real clients against loopback servers, and the objects of others."""

from __future__ import annotations

import gc
import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from safeexec_agent import (
    ChatMessage,
    InferenceClientModel,
    LiteLLMModel,
    ModelError,
    NotInstalled,
    OpenAIModel,
    ScriptedModel,
    TokenUsage,
    TransformersModel,
)
from safeexec_agent.models import MAX_REPLY, ask
from tests.agent.conftest import Make, code
from tests.agent.loopback import BUSY, Server, body, completion, events, serving

HELLO = [ChatMessage("system", "s"), ChatMessage("user", "hello")]
ANSWER = code("final_answer(42)")


def model(server: Server, **options: Any) -> OpenAIModel:
    return OpenAIModel("m", api_base=f"{server.url}/v1", api_key="sk-canary", **{"timeout": 10, **options})


def test_openai_drives_a_whole_run(make: Make) -> None:
    with serving(completion(code("x = 6")), BUSY, completion(ANSWER.replace("42", "x * 7"))) as server:
        agent = make(model(server, temperature=0.5))
        result = agent.run("Six times seven?", return_full_result=True)
        assert (result.output, result.token_usage) == (42, TokenUsage(22, 14))
        first = server.bodies()[0]
        assert (first["model"], first["temperature"], first["stop"]) == ("m", 0.5, ["Observation:"])
        assert [m["role"] for m in first["messages"]] == ["system", "user"]
        assert (
            server.requests[0][1:3][0] == "/v1/chat/completions"
            and server.requests[0][2]["authorization"] == "Bearer sk-canary"
        )
        assert len(server.requests) == 3, "the 429 was not tried again"
        assert server.bodies()[1] == server.bodies()[2]


@pytest.mark.parametrize("streams", [False, True])
def test_a_reply_that_the_limit_of_tokens_ended_is_not_run(make: Make, streams: bool) -> None:
    half = "<code>\nfor name in ('a', 'b'):\n    final_answer(name)"
    with serving(
        events([half[:9], half[9:]], finish_reason="length") if streams else completion(half, "length"),
        events([ANSWER], finish_reason="stop") if streams else completion(ANSWER),
    ) as server:
        agent = make(model(server), stream_outputs=streams)
        result = agent.run("Answer.", return_full_result=True)
        assert result.output == 42
        assert "cut off in the middle of the code" in server.bodies()[1]["messages"][-1]["content"]


def test_what_others_say_of_a_limit_of_tokens_is_heard() -> None:
    class Reply:
        content = "half"
        raw = types.SimpleNamespace(choices=[types.SimpleNamespace(finish_reason="length")])

    assert ask(lambda messages, **_: Reply(), HELLO).truncated
    assert not ask(lambda messages, **_: "whole", HELLO).truncated
    assert ask(lambda messages, **_: "x" * (MAX_REPLY + 1), HELLO).truncated


def test_openai_streams(make: Make) -> None:
    with serving(events([ANSWER[:20], ANSWER[20:]])) as server:
        agent = make(model(server), stream_outputs=True)
        pieces: list[str] = []
        agent.observers.append(lambda event, **about: pieces.append(about["text"]) if event == "delta" else None)
        assert agent.run("Answer.", return_full_result=True).token_usage == TokenUsage(5, 6)
        assert pieces == [ANSWER[:20], ANSWER[20:]] and server.bodies()[0]["stream"] is True


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (body("<html>not json</html>", kind="text/html"), "without choices"),
        (body("{", kind="application/json"), "JSON"),
        (body({"choices": []}), "without choices"),
        (body({"choices": [{"message": {}}]}), "without choices|content"),
        (body([1, 2]), "without choices"),
        (body({"error": {"message": "no such model"}}, 404), "no such model"),
        (body({"error": {"message": "bad key"}}, 401), "AuthenticationError"),
        (BUSY, "slow down"),
        (body({"error": {"message": "boom"}}, 500, retry_after_ms="5"), "boom"),
    ],
)
def test_answers_that_are_none_are_model_errors(answer: Any, message: str) -> None:
    with serving(answer) as server:
        if message.endswith("content"):
            # Without content a message says nothing; the agent then tells the model how to answer.
            assert ask(model(server, max_retries=1), HELLO).text == ""
            return
        with pytest.raises(ModelError, match=message) as caught:
            ask(model(server, max_retries=1), HELLO)
        assert "sk-canary" not in str(caught.value)


def test_malformed_answers_are_asked_for_again() -> None:
    with serving(body({"choices": None}), body("[]"), completion("fine")) as server:
        assert ask(model(server), HELLO).text == "fine"


def test_silence_ends_in_a_timeout() -> None:
    with serving(lambda handler: (server.stop.wait(20), None)[1]) as server:
        with pytest.raises(ModelError, match="Timeout"):
            ask(model(server, timeout=0.2, max_retries=0), HELLO)


def test_a_stream_that_never_ends_is_cut_by_time_and_by_length() -> None:
    def endless(piece: str) -> Any:
        def more(handler: Any) -> None:
            chunk = {
                "id": "1",
                "object": "c",
                "created": 1,
                "model": "m",
                "choices": [{"index": 0, "delta": {"content": piece}}],
            }
            while not server.stop.wait(0.01 if len(piece) < 10 else 0):
                handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                handler.wfile.flush()

        return events([], then=more)

    with serving(endless("x")) as server:
        with pytest.raises(ModelError, match=r"longer than 0.5 s"):
            ask(model(server, timeout=0.5), HELLO, on_delta=lambda piece: None)
    with serving(endless("y" * 50_000)) as server:
        assert MAX_REPLY < len(ask(model(server), HELLO, on_delta=lambda piece: None).text) < 2 * MAX_REPLY


def test_an_answer_that_is_given_up_is_ended_at_once() -> None:
    """Whoever is interrupted amid it keeps no connection, and the endpoint does not go on writing what nobody reads."""
    hung_up = threading.Event()

    def endless(handler: Any) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        line = json.dumps({**chunk, "choices": [{"index": 0, "delta": {"content": "x"}}]})
        try:
            while not server.stop.wait(0.01):
                handler.wfile.write(f"data: {line}\n\n".encode())
        except OSError:
            hung_up.set()

    def stop(piece: str) -> None:
        raise KeyError("enough")

    gc.disable()
    try:
        with serving(events([], end=False, then=endless)) as server:
            asked = model(server)
            with pytest.raises(KeyError):
                ask(asked, HELLO, on_delta=stop)
            assert hung_up.wait(10)
    finally:
        gc.enable()


def test_a_broken_stream_is_a_model_error() -> None:
    with serving(body("data: {not json\n\n", kind="text/event-stream")) as server:
        with pytest.raises(ModelError):
            ask(model(server), HELLO, on_delta=lambda piece: None)


def test_a_stream_that_breaks_off_is_no_answer(make: Make) -> None:
    """Half of it would be run as a program."""
    with serving(events(["<code>\nfor name in ('a',", " 'b'):\n    final_answer(name)"], end=False)) as server:
        with pytest.raises(ModelError, match="broke off"):
            make(model(server), stream_outputs=True).run("Go.")


def test_an_endpoint_that_never_says_where_an_answer_ends_can_be_used(make: Make) -> None:
    pieces = ["<code>\nfinal_answer(", "7)\n</code>"]
    with serving(events(pieces, end=False, says_when=False)) as server:
        assert make(model(server), stream_outputs=True).run("Go.") == 7


def test_reasoning_models_get_no_stop_and_a_missing_key_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(completion("x")) as server:
        for name in ("o3-mini", "gpt-5", "openai/o1"):
            OpenAIModel(name, api_base=server.url, api_key="k").generate(HELLO, ["stop"])
        assert all("stop" not in request for request in server.bodies())
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelError, match="OPENAI_API_KEY"):
        OpenAIModel("gpt-4o")


def test_inference_client(make: Make) -> None:
    assert InferenceClientModel().model_id == "Qwen/Qwen2.5-Coder-32B-Instruct"
    with serving(body({"error": "busy"}, 503), completion(ANSWER)) as server:
        agent = make(InferenceClientModel("q", token="hf_canary", base_url=f"{server.url}/v1", timeout=10))
        assert agent.run("Answer.") == 42
        assert len(server.requests) == 2 and server.requests[1][2]["authorization"] == "Bearer hf_canary"
        assert server.bodies()[1]["messages"][0]["role"] == "system"
    with serving(body({"error": "no"}, 401)) as server:
        with pytest.raises(ModelError):
            ask(InferenceClientModel("q", token="hf_canary", base_url=f"{server.url}/v1"), HELLO)
        assert len(server.requests) == 1


def test_a_token_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = InferenceClientModel("q")
    asked: list[int] = []

    def refuse(**request: Any) -> Any:
        asked.append(1)
        raise ValueError("You must provide an api_key")

    monkeypatch.setattr(model._client, "chat_completion", refuse)
    with pytest.raises(ModelError, match="You must provide an api_key"):
        ask(model, HELLO)
    assert len(asked) == 1


def test_litellm_is_called_as_it_wants_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in: the library is used only by those who installed it.
    def complete(**request: Any) -> Any:
        assert (
            request["model"] == "x/y"
            and request["messages"][1] == {"role": "user", "content": "hello"}
            and request["num_retries"] == 5
        )
        message = types.SimpleNamespace(content="hi")
        return types.SimpleNamespace(
            choices=[types.SimpleNamespace(message=message)],
            usage=types.SimpleNamespace(prompt_tokens=1, completion_tokens=2),
        )

    monkeypatch.setitem(sys.modules, "litellm", types.SimpleNamespace(completion=complete))
    assert ask(LiteLLMModel("x/y"), HELLO) == ChatMessage("assistant", "hi", TokenUsage(1, 2))
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(NotInstalled, match="pip install"):
        LiteLLMModel("x/y")


def test_transformers_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NotInstalled, match="pip install"):
        TransformersModel("x")


def test_scripted_models_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("one\nmore\n---\n\n---\ntwo\n")
    (tmp_path / "b.json").write_text('["one", "two"]')
    (tmp_path / "c.json").write_text('[{"role": "user", "content": "x"}, {"role": "assistant", "content": "one"}]')
    assert ScriptedModel.from_file(tmp_path / "a.md").replies == ["one\nmore", "two"]
    assert ScriptedModel.from_file(tmp_path / "b.json").replies == ["one", "two"]
    assert ScriptedModel.from_file(tmp_path / "c.json").replies == ["one"]
    for name, text in (("d.json", "{}"), ("e.json", "[1]"), ("f.json", "[")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ModelError, match="transcript"):
            ScriptedModel.from_file(tmp_path / name)
    with pytest.raises(ModelError, match="cannot be read"):
        ScriptedModel.from_file(tmp_path / "none.md")


def test_models_of_other_libraries(make: Make) -> None:
    class Theirs:
        """As smolagents' are: `generate` takes dicts with parts."""

        model_id = "theirs"

        def generate(self, messages: Any, stop_sequences: Any = None, response_format: Any = None, **more: Any) -> Any:
            assert all(type(m) is dict and m["content"][0]["type"] == "text" for m in messages)
            return types.SimpleNamespace(
                role="assistant", content=ANSWER, token_usage=types.SimpleNamespace(input_tokens=3, output_tokens=4)
            )

    Theirs.__module__ = "smolagents.models"
    assert make(Theirs()).run("Answer.", return_full_result=True).token_usage == TokenUsage(3, 4)
    assert make(lambda messages, stop_sequences=None: ANSWER).run("Answer.") == 42

    def fails(messages: Any, **options: Any) -> str:
        raise RuntimeError("out of order")

    with pytest.raises(ModelError, match="out of order"):
        make(fails).run("Answer.")


def test_a_lone_surrogate_of_a_model_or_a_guest_breaks_no_request(make: Make) -> None:
    replies = [completion(code("print(chr(0xD800))\nraise ValueError(chr(0xDFFF))") + "\ud800"), completion(ANSWER)]
    with serving(*replies) as server:
        assert make(model(server)).run("Answer.") == 42
        assert len(server.requests) == 2
