"""The code in a model's reply. Only the reply is ever looked at: code in a tool's result or a page stays text."""

from __future__ import annotations

import ast
import json
import re
import textwrap

from safeexec.parsed import parse

TAGS = ("<code>", "</code>")
MARKDOWN = ("```python", "```")
_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n")
_PYTHON = ("", "py", "python", "python3")
_OBSERVATION = re.compile(r"(?m)^[ \t]*(?:\*\*)?Observations?(?:\*\*)?:")


class ParseError(ValueError):
    """There is no code in the reply; the message tells the model what to write instead."""


def tags_of(choice: str | tuple[str, str] | None) -> tuple[str, str]:
    """The opening and closing tag: None for the default, "markdown" for fences, or a pair."""
    if choice is None:
        return TAGS
    if choice == "markdown":
        return MARKDOWN
    if isinstance(choice, str) or len(choice) != 2 or not all(isinstance(t, str) and t for t in choice):
        raise ValueError(f"code_block_tags must be 'markdown' or a pair of texts, not {choice!r}")
    return choice[0], choice[1]


def parse_code(reply: str, tags: tuple[str, str] = TAGS, truncated: bool = False) -> str:
    """The reply's code blocks, joined. Raises ParseError, also for a block without an end in a reply that is `truncated`: cut off at the limit of tokens.

    Left out: what a reasoning model thinks (``<think>…</think>``), and all from an "Observation:" of the model's own making on, since what
    follows answers an event that never happened.
    """
    text = _without(reply, "<think>", "</think>")
    blocks, ended = _between(text, *tags) if tags != MARKDOWN else ([], True)
    if not blocks:
        blocks, ended = _fenced(text)
    if truncated and not (blocks and ended):
        # Half of a program would do half of what was meant, and look like the whole.
        raise ParseError(_cut_off("in the middle of the code" if blocks else "before any code"))
    code = "\n\n".join(block for block in blocks if block.strip())
    if code:
        return code
    bare = text.strip()
    if _is_program(bare):
        return bare
    if any(blocks):
        raise ParseError(f"The code block is empty. Write Python between {tags[0]} and {tags[1]}.")
    raise ParseError(
        f"There is no code in your answer, so nothing was run. Write your thought, then Python between {tags[0]} and {tags[1]}:\n"
        f"Thought: what you will do and why\n{tags[0]}\nprint(1 + 1)\n{tags[1]}\n"
        f'If you know the answer already:\n{tags[0]}\nfinal_answer("the answer")\n{tags[1]}'
    )


def _cut_off(where: str) -> str:
    return (
        f"Your answer was cut off {where}: it reached the limit of tokens, so nothing was run. "
        "Think and write less at once: do one part now, and the rest in the next steps."
    )


def parse_structured(reply: str, truncated: bool = False) -> tuple[str, str]:
    """Thought and code of a reply that is a JSON object with these two; `truncated` if it was cut off at the limit of tokens. Raises ParseError."""
    try:
        data = json.loads(_without(reply, "<think>", "</think>"))
        thought, code = data["thought"], data["code"]
        if not isinstance(thought, str) or not isinstance(code, str) or not code.strip():
            raise ValueError("both must be texts, and code not empty")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        if truncated:
            raise ParseError(_cut_off("before its end")) from None
        raise ParseError(
            f'Answer with a JSON object {{"thought": "…", "code": "…"}} and nothing else ({error!s:.200}).'
        ) from None
    return thought, _unfenced(code)


def _without(text: str, opening: str, closing: str) -> str:
    kept = []
    at = 0
    while (start := text.find(opening, at)) >= 0:
        kept.append(text[at:start])
        end = text.find(closing, start)
        if end < 0:
            return "".join(kept)
        at = end + len(closing)
    return "".join(kept) + text[at:]


def _between(text: str, opening: str, closing: str) -> tuple[list[str], bool]:
    """The blocks, and whether the last one has an end."""
    blocks: list[str] = []
    at = 0
    while True:
        start = text.find(opening, at)
        if start < 0 or _OBSERVATION.search(text, at, start):
            return blocks, True
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:  # the stop sequence, or the end of the tokens, cut the tag off
            blocks.append(_unfenced(text[start:]))
            return blocks, False
        blocks.append(_unfenced(text[start:end]))
        at = end + len(closing)


def _fenced(text: str) -> tuple[list[str], bool]:
    """The blocks that are Python, and whether the last block has an end."""
    blocks: list[str] = []
    inside: list[str] | None = None
    wanted = False
    for line in text.split("\n"):
        if not line.lstrip().startswith("```"):
            if inside is not None:
                inside.append(line)
            elif _OBSERVATION.match(line):
                break
        elif inside is None:
            inside = []
            wanted = line.strip().strip("`").partition(" ")[0].lower() in _PYTHON
        else:
            if wanted:
                blocks.append(_dedented("\n".join(inside)))
            inside = None
    if inside is not None and wanted:  # cut off by the end of the tokens
        blocks.append(_dedented("\n".join(inside)))
        return blocks, False
    return blocks, True


def _unfenced(block: str) -> str:
    match = _FENCE.match(block.strip() + "\n")
    if match is None:
        return _dedented(block)
    body = block.strip()[match.end() :]
    return _dedented(body.removesuffix("```"))


def _dedented(block: str) -> str:
    return textwrap.dedent(block).strip("\n").rstrip()


def _is_program(text: str) -> bool:
    """Whether a reply without any tag is a program: it parses, and does more than name something, as prose might."""
    if not text or len(text) > 100_000:
        return False
    try:
        tree = parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Call | ast.Assign | ast.Import | ast.ImportFrom) for node in ast.walk(tree))
