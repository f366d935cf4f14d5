"""Models behind an endpoint or in this process. Each library is imported when its model is made."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from safeexec_agent.errors import ModelError, NotInstalled
from safeexec_agent.models import MAX_REPLY, ChatMessage, Delta, TokenUsage, counted, is_cut

DEFAULT_HF_MODEL = "Qwen/Qwen2.5-Coder-32B-Instruct"
_TRIES = 3
"""How often an answer without content is asked for again; errors of transport are the library's own retries."""
_NO_STOP = re.compile(r"(^|/)(o\d|gpt-5)")
"""Reasoning models that refuse the parameter `stop`."""


def _missing(what: str, extra: str) -> NoReturn:
    raise NotInstalled(f"{what} is not installed: pip install '{extra}'")


class _ChatCompletions:
    """What the clients with OpenAI's shape of answers have in common."""

    model_id: str
    timeout: float
    _parameters: dict[str, Any]

    def _create(self, **request: Any) -> Any:
        raise NotImplementedError

    def _request(self, messages: Sequence[ChatMessage], stop: Any, response_format: Any) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.model_id,
            "messages": [m.to_dict() for m in messages],
            **self._parameters,
        }
        if stop and not _NO_STOP.search(self.model_id):
            request["stop"] = list(stop)
        if response_format is not None:
            request["response_format"] = dict(response_format)
        return request

    def generate(
        self,
        messages: Sequence[ChatMessage],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatMessage:
        """The reply. Raises ModelError."""
        request = self._request(messages, stop_sequences, response_format)
        trouble = "no answer"
        for _ in range(_TRIES):
            answer = self._create(**request)
            try:
                choice = answer.choices[0]
                content = choice.message.content
            except (AttributeError, IndexError, TypeError):
                trouble = f"an answer without choices: {answer!r:.300}"
                continue
            if content is None or isinstance(content, str):
                text = content or ""
                truncated = is_cut(choice) or len(text) > MAX_REPLY
                return ChatMessage("assistant", text[:MAX_REPLY], _used(answer), truncated)
            trouble = f"content of type {type(content).__name__}"
        raise ModelError(f"{self.model_id}: {trouble}")

    def generate_stream(
        self,
        messages: Sequence[ChatMessage],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> Iterator[Delta]:
        """The reply in pieces. Raises ModelError, also when the whole takes longer than `timeout`, or breaks off: what was begun is not asked for again."""
        request = self._request(messages, stop_sequences, response_format)
        until, says, ended = time.monotonic() + self.timeout, False, False
        stream = self._create(**request, stream=True, stream_options={"include_usage": True})
        try:
            for chunk in stream:
                if time.monotonic() > until:  # each piece may come in time and the last one never
                    raise ModelError(f"{self.model_id}: the answer took longer than {self.timeout:g} s")
                choices = getattr(chunk, "choices", None)
                content = getattr(getattr(choices[0], "delta", None), "content", None) if choices else None
                used = _used(chunk)
                says = says or bool(choices and _says_when(choices[0]))
                ended = ended or (
                    getattr(choices[0], "finish_reason", None) is not None if choices else used is not None
                )
                cut = is_cut(choices[0]) if choices else False
                if content or used or cut:
                    yield Delta(content if isinstance(content, str) else "", used, cut)
            # Half of a program must not be run as if it were the whole: a connection that is closed looks like an end.
            if says and not ended:
                raise ModelError(f"{self.model_id}: the answer broke off")
        finally:
            # An answer that is given up would go on being written, and paid for, until the garbage collector came by.
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without keys and addresses."""
        return {
            "model_id": self.model_id,
            **{k: v for k, v in self._parameters.items() if isinstance(v, int | float | str)},
        }


def _says_when(choice: Any) -> bool:
    """Whether the endpoint says with each piece if it is the last. Some never do: theirs end when the stream does."""
    return "finish_reason" in getattr(choice, "model_fields_set", ("finish_reason",))


def _used(answer: Any) -> TokenUsage | None:
    return counted(getattr(answer, "usage", None), "prompt_tokens", "completion_tokens")


class OpenAIModel(_ChatCompletions):
    """Any endpoint that speaks OpenAI's chat completions: OpenAI, the HF router, vLLM, Ollama, llama.cpp.

    `api_key` defaults to ``OPENAI_API_KEY``. 429 and 5xx answers, lost connections and silence of more than `timeout` seconds are tried again
    `max_retries` times, with backoff, as ``Retry-After`` asks. Other parameters (temperature, max_tokens) go into each request.
    """

    def __init__(
        self,
        model_id: str = "gpt-4o-mini",
        api_base: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        max_retries: int = 5,
        client_kwargs: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> None:
        try:
            import openai
        except ImportError:
            _missing("the openai library", "safeexec[agent]")
        self.model_id, self.timeout, self._parameters = model_id, timeout, parameters
        key = api_key or os.environ.get("OPENAI_API_KEY")
        if key is None and api_base is None and "OPENAI_BASE_URL" not in os.environ:
            raise ModelError(
                "no key: set OPENAI_API_KEY, or give api_key=; for an endpoint that needs none give api_base= (--base-url)"
            )
        self._error: type[Exception] = openai.OpenAIError
        self._client = openai.OpenAI(
            base_url=api_base, api_key=key or "none", timeout=timeout, max_retries=max_retries, **(client_kwargs or {})
        )

    def _create(self, **request: Any) -> Any:
        try:
            return self._client.chat.completions.create(**request)
        except (self._error, ValueError) as error:  # ValueError: the body is not JSON
            raise ModelError(f"{self.model_id}: {type(error).__name__}: {str(error)[:500]}") from error


OpenAIServerModel = OpenAIModel


class InferenceClientModel(_ChatCompletions):
    """Hugging Face's inference providers, through ``huggingface_hub``. The token is the one you logged in with, ``HF_TOKEN``, or `token`."""

    def __init__(
        self,
        model_id: str = DEFAULT_HF_MODEL,
        provider: Any = None,
        token: str | None = None,
        *,
        timeout: float = 120.0,
        base_url: str | None = None,
        max_retries: int = 5,
        **parameters: Any,
    ) -> None:
        try:
            import huggingface_hub
        except ImportError:
            _missing("huggingface_hub", "safeexec[hub]")
        self.model_id, self.timeout, self._parameters, self._retries = model_id, timeout, parameters, max_retries
        self._client: Any = huggingface_hub.InferenceClient(
            model=base_url, provider=provider, token=token, timeout=timeout
        )

    def _create(self, **request: Any) -> Any:
        for attempt in range(self._retries + 1):
            try:
                return self._client.chat_completion(**request)
            except Exception as error:  # of requests, httpx or the library's own, by version
                status = getattr(getattr(error, "response", None), "status_code", None)
                # A plain ValueError is the library's word on the request, or on a token that is missing: no time heals it.
                final = type(error) is ValueError or (status is not None and status != 429 and status < 500)
                if attempt == self._retries or final:
                    raise ModelError(f"{self.model_id}: {type(error).__name__}: {str(error)[:500]}") from error
                time.sleep(min(0.5 * 2**attempt, 8.0))
        raise ModelError(f"{self.model_id}: no attempt was made")


HfApiModel = InferenceClientModel


class LiteLLMModel(_ChatCompletions):
    """Whatever LiteLLM reaches, if you installed it (``pip install litellm``)."""

    def __init__(
        self,
        model_id: str,
        api_base: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        max_retries: int = 5,
        **parameters: Any,
    ) -> None:
        try:
            import litellm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            _missing("litellm", "litellm")
        self.model_id, self.timeout, self._parameters = model_id, timeout, parameters
        self._complete: Any = litellm.completion
        self._options = {"api_base": api_base, "api_key": api_key, "timeout": timeout, "num_retries": max_retries}

    def _create(self, **request: Any) -> Any:
        try:
            return self._complete(**request, **self._options)
        except Exception as error:  # LiteLLM's own, and those of every provider's library
            raise ModelError(f"{self.model_id}: {type(error).__name__}: {str(error)[:500]}") from error


class TransformersModel:
    """Local weights, through ``transformers`` (``pip install transformers torch``). Never runs code that comes with the weights."""

    def __init__(
        self, model_id: str, *, device_map: str | None = None, max_new_tokens: int = 2048, **parameters: Any
    ) -> None:
        try:
            import transformers  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            _missing("transformers", "transformers")
        self.model_id, self._limit, self._parameters = model_id, max_new_tokens, parameters
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model_id)
        options = {} if device_map is None else {"device_map": device_map}
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(model_id, **options)

    def generate(
        self,
        messages: Sequence[ChatMessage],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatMessage:
        """The reply. Raises ModelError for a format of answers: local weights are not held to one."""
        if response_format is not None:
            raise ModelError("TransformersModel cannot be held to a format: leave use_structured_outputs off")
        chat = [{"role": m.role, "content": m.text} for m in messages]
        inputs = self._tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        inputs = inputs.to(self._model.device)
        count = inputs["input_ids"].shape[-1]
        out = self._model.generate(**inputs, max_new_tokens=self._limit, **self._parameters)[0][count:]
        text = self._tokenizer.decode(out, skip_special_tokens=True)
        truncated = len(out) >= self._limit
        for stop in stop_sequences or ():
            text, found, _ = text.partition(stop)
            truncated = truncated and not found  # what is lost came after the end
        return ChatMessage("assistant", text, TokenUsage(int(count), len(out)), truncated)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"model_id": self.model_id}
