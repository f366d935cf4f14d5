"""Legacy exception handling (try/catch/delegate/rethrow) rewritten to the standard one (try_table, exnref).

Emscripten still emits the legacy opcodes, wasmtime accepts only the standard ones. Each `try` with handlers
becomes a nest of blocks, one per handler, around a `try_table` whose clauses branch out of the nest:

    block $done
      block $handler1            ;; result: what the second tag carries (and the exnref, if it is rethrown)
        block $handler0
          try_table (catch $tag0 $handler0) (catch_all $handler1)  ...body...  end
          br $done
        end
        ...first handler...
        br $done
      end
      ...second handler...
    end
"""

from __future__ import annotations

from collections.abc import Sequence

from .binary import FormatError, FunctionType, encode_signed, encode_unsigned, unsigned
from .code import (
    BLOCK,
    BR,
    BR_IF,
    BR_TABLE,
    CALL,
    CATCH,
    CATCH_ALL,
    DELEGATE,
    END,
    IF,
    LOCAL_GET,
    LOCAL_SET,
    LOOP,
    REF_FUNC,
    RETHROW,
    RETURN,
    RETURN_CALL,
    THROW_REF,
    TRY,
    TRY_TABLE,
    interesting,
    skip_locals,
)

EXNREF = b"\x69"
_CLAUSE_TAG, _CLAUSE_TAG_REF, _CLAUSE_ALL, _CLAUSE_ALL_REF = range(4)
_VOID = 0x40
_MAX_TRIES = 500
_MAX_LABELS = 10_000
"""What may be open at once: far beyond what compilers make. Without a bound, a function could be written whose translation grows with the square
of its size, or takes so long."""

# One catch clause: its kind, its tag (None for catch_all), the height of the label it branches to.
Clause = tuple[int, int | None, int]


class Types:
    """The module's function types, growing by the block types that handlers need."""

    def __init__(self, types: Sequence[FunctionType]) -> None:
        self.all = list(types)
        self._index = {t: i for i, t in reversed(list(enumerate(types)))}

    def block(self, results: Sequence[bytes]) -> bytes:
        """The block type of a block that takes nothing and leaves `results`."""
        if not results:
            return bytes((_VOID,))
        if len(results) == 1:
            return results[0]
        wanted = FunctionType((), tuple(results))
        if wanted not in self._index:
            self._index[wanted] = len(self.all)
            self.all.append(wanted)
        return encode_signed(self._index[wanted])


class _Try:
    """What the first pass learns of one `try`."""

    __slots__ = ("delegate", "rethrown", "tags")

    def __init__(self) -> None:
        self.tags: list[int | None] = []  # of the handlers, in order; None is catch_all
        self.rethrown: set[int] = set()  # handlers that a rethrow names: they must keep the exnref
        self.delegate: int | None = None


class _Label:
    """One open label of the legacy code, and where it stands in the new code."""

    __slots__ = ("base", "clauses", "exception", "handler", "height", "info")

    def __init__(self, height: int, info: _Try | None = None) -> None:
        self.height = height  # of the new label that a branch to this one must reach
        self.info = info
        self.clauses: list[Clause] = []
        self.base = 0
        self.handler = -1  # which handler is open; -1 while the try's own body is
        self.exception = 0  # the local that keeps the exnref of the open handler


def _survey(body: bytes, first: int) -> dict[int, _Try]:
    tries: dict[int, _Try] = {}
    stack: list[_Try | None] = []
    open_tries = 0
    for op, start, _ in interesting(body, first):
        if op in (BLOCK, LOOP, IF):
            stack.append(None)
        elif op == TRY:
            tries[start] = _Try()
            stack.append(tries[start])
            open_tries += 1
            if len(stack) > _MAX_LABELS or open_tries > _MAX_TRIES:
                raise FormatError("exception handlers nested too deep")
        elif op in (CATCH, CATCH_ALL):
            current = stack[-1]
            if current is None:
                raise FormatError("catch outside a try")
            current.tags.append(unsigned(body, start + 1)[0] if op == CATCH else None)
        elif op == RETHROW:
            target = stack[-1 - unsigned(body, start + 1)[0]]
            if target is None or not target.tags:
                raise FormatError("rethrow outside a handler")
            target.rethrown.add(len(target.tags) - 1)
        elif op == DELEGATE:
            current = stack.pop()
            if current is None:
                raise FormatError("delegate outside a try")
            current.delegate = unsigned(body, start + 1)[0]
            open_tries -= 1
        elif op == END and stack:
            open_tries -= stack.pop() is not None
    return tries


def translate(
    body: bytes,
    kind: FunctionType,
    tags: Sequence[FunctionType],
    types: Types,
    functions: Sequence[bytes],
) -> bytes:
    """Rewrite one body that uses legacy exceptions; `functions[old]` is the encoded new index of a function."""
    groups, local_count, first = skip_locals(body)
    tries = _survey(body, first)
    out = bytearray()
    next_local = len(kind.parameters) + local_count
    exception_locals = 0
    # A delegate that no try of this function answers leaves the function: it needs a way out past the tries in between.
    leaves = any(t.delegate is not None for t in tries.values())
    height = 1
    if leaves:
        out += bytes((BLOCK,)) + EXNREF
        height = 2
    labels = [_Label(0)]

    def emit_clauses(clauses: Sequence[Clause]) -> None:
        out.extend(encode_unsigned(len(clauses)))
        for clause, tag, target in clauses:
            out.append(clause)
            if tag is not None:
                out.extend(encode_unsigned(tag))
            out.extend(encode_unsigned(height - 1 - target))

    def branch(depth: int) -> bytes:
        return encode_unsigned(height - 1 - labels[-1 - depth].height)

    position = first
    for op, start, end in interesting(body, first):
        out += body[position:start]
        position = end
        if op in (BLOCK, LOOP, IF):
            labels.append(_Label(height))
            height += 1
            out += body[start:end]
        elif op == TRY:
            info = tries[start]
            block = body[start + 1 : end]
            if block[0] < _VOID:
                raise FormatError("a try with a type index")  # it could take parameters
            if info.delegate is not None:
                clauses = _delegated(labels, info.delegate)
                out.append(TRY_TABLE)
                out += block
                emit_clauses(clauses)
                labels.append(_Label(height, info))
                labels[-1].clauses = clauses
                height += 1
                continue
            label = _Label(0, info)
            out.append(BLOCK)
            out += block
            label.base = height
            height += 1
            for number in reversed(range(len(info.tags))):
                tag = info.tags[number]
                results = list(tags[tag].parameters) if tag is not None else []
                if number in info.rethrown:
                    results.append(EXNREF)
                out.append(BLOCK)
                out += types.block(results)
                height += 1
            for number, tag in enumerate(info.tags):
                keeps = number in info.rethrown
                clause = (_CLAUSE_TAG if tag is not None else _CLAUSE_ALL) + keeps
                label.clauses.append((clause, tag, height - 1 - number))
            out.append(TRY_TABLE)
            out += block
            emit_clauses(label.clauses)
            label.height = height
            height += 1
            labels.append(label)
        elif op in (CATCH, CATCH_ALL):
            label = labels[-1]
            assert label.info is not None
            if label.handler < 0:
                out.append(END)  # of the try_table
                height -= 1
            out.append(BR)
            out += encode_unsigned(height - 1 - label.base)
            out.append(END)  # of the handler's block: its values are on the stack now
            height -= 1
            label.handler += 1
            label.height = label.base
            if label.handler in label.info.rethrown:
                depth = sum(1 for other in labels[:-1] if other.info is not None)
                label.exception = next_local + depth
                exception_locals = max(exception_locals, depth + 1)
                out.append(LOCAL_SET)
                out += encode_unsigned(label.exception)
        elif op == RETHROW:
            target = labels[-1 - unsigned(body, start + 1)[0]]
            out.append(LOCAL_GET)
            out += encode_unsigned(target.exception)
            out.append(THROW_REF)
        elif op == DELEGATE:
            labels.pop()
            out.append(END)
            height -= 1
        elif op == END:
            label = labels.pop()
            if not labels:  # the function's own end
                if leaves:
                    out += bytes((RETURN, END, THROW_REF))
            elif label.info is not None and not label.info.tags:
                out.append(END)  # a try without handlers: the try_table and the block around it
                height -= 1
            if labels:
                height -= 1
            out.append(END)
        elif op in (BR, BR_IF):
            out.append(op)
            out += branch(unsigned(body, start + 1)[0])
        elif op == BR_TABLE:
            count, at = unsigned(body, start + 1)
            out.append(op)
            out += encode_unsigned(count)
            for _ in range(count + 1):
                depth, at = unsigned(body, at)
                out += branch(depth)
        elif op in (CALL, RETURN_CALL, REF_FUNC):
            out.append(op)
            out += functions[unsigned(body, start + 1)[0]]
        else:
            out += body[start:end]
    out += body[position:]
    _, after_count = unsigned(body, 0)
    declarations = body[after_count:first]
    if exception_locals:
        groups += 1
        declarations += encode_unsigned(exception_locals) + EXNREF
    return encode_unsigned(groups) + declarations + bytes(out)


def _delegated(labels: Sequence[_Label], depth: int) -> list[Clause]:
    """The clauses that stand for a delegate: those of the try it names, then of every try around that one.

    A `try_table` cannot skip the ones between itself and its target, so it must catch everything itself; what no try
    answers goes to the block around the whole function, which throws it on.
    """
    clauses: list[Clause] = []
    for label in reversed(labels[: len(labels) - depth]):
        if label.info is None or label.handler >= 0:
            continue  # not a try, or already in its handlers: it does not answer
        clauses += label.clauses
        if any(tag is None for _, tag, _ in label.clauses):
            return clauses
    return [*clauses, (_CLAUSE_ALL_REF, None, 1)]
