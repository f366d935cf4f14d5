"""Models: what turns messages into the next message. One small protocol, the scripted model, and the bridge to models of other libraries."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from safeexec_agent.errors import ModelError

MAX_REPLY = 1_000_000
"""Characters of one reply that are read; a model that never stops must not fill the memory."""


@dataclass(frozen=True)
class TokenUsage:
    """Tokens read and written."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


@dataclass(frozen=True)
class ChatMessage:
    """One message: `role` is "system", "user" or "assistant"; `content` text, or parts in OpenAI's form (``{"type": "text", …}``, ``image_url``).
    A reply that ended since its tokens were used up is `truncated`."""

    role: str
    content: str | list[dict[str, Any]]
    token_usage: TokenUsage | None = None
    truncated: bool = False

    @property
    def text(self) -> str:
        """The text of the content."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part.get("text", "")) for part in self.content if part.get("type") == "text")

    def to_dict(self) -> dict[str, Any]:
        """Role and content, as endpoints take them."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed reply; the last one may carry the token usage, and whether the reply ended since its tokens were used up."""

    content: str = ""
    token_usage: TokenUsage | None = None
    truncated: bool = False


class Model(Protocol):
    """What an agent asks of a model.

    ``generate_stream`` with the same parameters, yielding :class:`Delta`, is optional. Raises ModelError when there is no answer to be had.
    """

    model_id: str

    def generate(
        self,
        messages: Sequence[ChatMessage],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatMessage:
        """The reply to `messages`."""
        ...


class ScriptedModel:
    """Replays replies in order: for tests, demonstrations and examples without a network. `requests` keeps what it was asked.

    Raises ModelError when the script is at its end.
    """

    def __init__(self, replies: Sequence[str | ChatMessage], model_id: str = "scripted") -> None:
        self.model_id = model_id
        self.replies = list(replies)
        self.requests: list[list[ChatMessage]] = []
        self._lock = threading.Lock()

    @classmethod
    def from_file(cls, path: str | Path) -> ScriptedModel:
        """A transcript: a JSON list of strings (or of ``{"role", "content"}``, of which the assistant's are taken), or text whose replies are parted by
        lines of ``---``. Raises ModelError for what is neither."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            replies: list[Any] = json.loads(text) if path.suffix == ".json" else re.split(r"(?m)^---+[ \t]*\n", text)
        except (OSError, ValueError) as error:
            raise ModelError(f"the transcript {path} cannot be read: {error}") from error
        if isinstance(replies, list) and all(isinstance(r, dict) for r in replies):
            replies = [r.get("content") for r in replies if r.get("role") == "assistant"]
        if not isinstance(replies, list) or not all(isinstance(r, str) for r in replies):
            raise ModelError(
                f"the transcript {path} must be a JSON list of strings, or text with lines of --- between replies"
            )
        return cls([r.strip("\n") for r in replies if r.strip()], model_id=path.stem)

    def generate(
        self,
        messages: Sequence[ChatMessage],
        stop_sequences: Sequence[str] | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> ChatMessage:
        """The next reply."""
        with self._lock:
            self.requests.append(list(messages))
            if len(self.requests) > len(self.replies):
                raise ModelError(f"the script of {self.model_id!r} has no reply number {len(self.requests)}")
            reply = self.replies[len(self.requests) - 1]
        if isinstance(reply, ChatMessage):
            return reply
        # Four characters are about a token: a figure to show, not to bill.
        used = TokenUsage(sum(len(m.text) for m in messages) // 4, len(reply) // 4)
        return ChatMessage("assistant", reply, used)

    def generate_stream(self, *args: Any, **kwargs: Any) -> Iterator[Delta]:
        """The next reply in pieces."""
        reply = self.generate(*args, **kwargs)
        for piece in re.findall(r"\S*\s*", reply.text):
            if piece:
                yield Delta(piece)
        yield Delta(token_usage=reply.token_usage, truncated=reply.truncated)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"model_id": self.model_id}


def ask(
    model: Any,
    messages: Sequence[ChatMessage],
    stop: Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
    on_delta: Callable[[str], None] | None = None,
) -> ChatMessage:
    """One reply of any model: ours, or an object of smolagents (``generate``, or callable). `on_delta` sees a streamed reply as it comes.

    Raises ModelError for every failure of the model, and passes on what `on_delta` raises.
    """
    options: dict[str, Any] = {"stop_sequences": list(stop) if stop else None}
    if response_format is not None:
        options["response_format"] = dict(response_format)
    foreign = not type(model).__module__.startswith("safeexec_agent") and _of_smolagents(model)
    sent: list[Any] = [_foreign(m) for m in messages] if foreign else list(messages)
    generate = getattr(model, "generate", None) or model
    stream = getattr(model, "generate_stream", None) if on_delta is not None else None
    try:
        if stream is None or on_delta is None:
            return _reply(generate(sent, **options))
        parts: list[str] = []
        used: TokenUsage | None = None
        size, truncated = 0, False
        deltas = stream(sent, **options)
        try:
            for delta in deltas:
                piece = getattr(delta, "content", None) or ""
                used = _usage(delta) or used
                truncated = truncated or _truncated(delta)
                parts.append(piece[:MAX_REPLY])
                size += len(piece)
                if size > MAX_REPLY:
                    truncated = True
                    break
                if piece:
                    _Passed.call(on_delta, piece)
        finally:
            close = getattr(deltas, "close", None)  # a generator has one: what it reads from is let go of now
            if close is not None:
                close()
        return ChatMessage("assistant", _clean("".join(parts)), used, truncated)
    except _Passed as passed:
        raise passed.error from None
    except ModelError:
        raise
    except Exception as error:  # whatever a library of somebody else's raises
        raise ModelError(
            f"{getattr(model, 'model_id', type(model).__name__)}: {type(error).__name__}: {error}"[:2000]
        ) from error


class _Passed(Exception):
    """Carries what the caller's own callback raised past the handler of the model's failures."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    @classmethod
    def call(cls, function: Callable[[str], None], piece: str) -> None:
        try:
            function(piece)
        except Exception as error:
            raise cls(error) from None


def _of_smolagents(model: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "smolagents" for kind in type(model).__mro__)


def _foreign(message: ChatMessage) -> dict[str, Any]:
    parts = message.content if isinstance(message.content, list) else [{"type": "text", "text": message.content}]
    return {"role": message.role, "content": parts}


def _reply(answer: Any) -> ChatMessage:
    content = answer if isinstance(answer, str) else getattr(answer, "content", answer)
    if isinstance(content, list):
        content = "\n".join(str(p.get("text", "")) for p in content if isinstance(p, dict))
    if content is None and answer is not None:  # a message without text
        content = ""
    if not isinstance(content, str):
        raise ModelError(f"the model's answer has no text: {type(answer).__name__}")
    truncated = _truncated(answer) or len(content) > MAX_REPLY
    return ChatMessage("assistant", _clean(content[:MAX_REPLY]), _usage(answer), truncated)


def _truncated(answer: Any) -> bool:
    """Whether a reply or a piece of one says that the limit of tokens ended it; smolagents keeps the endpoint's own answer as `raw`."""
    if getattr(answer, "truncated", False) is True:
        return True
    choices = getattr(getattr(answer, "raw", None), "choices", None)
    return isinstance(choices, list) and bool(choices) and is_cut(choices[0])


def is_cut(choice: Any) -> bool:
    """Whether an endpoint says of one of its choices that the limit of tokens ended it."""
    return getattr(choice, "finish_reason", None) == "length"


def _usage(answer: Any) -> TokenUsage | None:
    return counted(getattr(answer, "token_usage", None), "input_tokens", "output_tokens")


def counted(used: Any, *names: str) -> TokenUsage | None:
    """What `used` says of itself under these names, of what was read and what was written; what is no count is 0, and None says nothing."""
    if used is None:
        return None
    counts = (getattr(used, name, 0) for name in names)
    return TokenUsage(*(c if type(c) is int and c >= 0 else 0 for c in counts))


def _clean(text: str) -> str:
    """Without lone surrogates: a UTF-8 encoder, in the next request for one, would fail over them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def usage_dict(used: TokenUsage | None) -> dict[str, int] | None:
    """As plain data."""
    return None if used is None else {**asdict(used), "total_tokens": used.total_tokens}
