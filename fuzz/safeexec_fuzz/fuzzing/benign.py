"""Strategies for ordinary programs whose value, output and exception must be the same on every Python. No clock, no identity, no order of sets."""

from __future__ import annotations

from hypothesis import strategies as st

numbers = st.one_of(
    st.integers(-1000, 1000).map(str), st.sampled_from(("0", "1", "-1", "2**70", "0.5", "-2.25", "1e10"))
)
texts = st.sampled_from(("''", "'x'", "'hello world'", "'a,b,c'", "'é'", "'12'", "'AbC'"))


@st.composite
def number(draw: st.DrawFn, depth: int = 2) -> str:
    """An expression that is a number, or fails as it should."""
    if depth == 0 or draw(st.integers(0, 2)) == 0:
        return draw(st.one_of(numbers, st.sampled_from(("a", "b", "total"))))
    left, right = draw(number(depth - 1)), draw(number(depth - 1))
    return draw(
        st.sampled_from(
            (
                f"({left} + {right})", f"({left} - {right})", f"({left} * {right})", f"({left} // {right})", f"({left} % {right})", f"({left} / {right})",
                f"abs({left})", f"min({left}, {right})", f"max({left}, {right})", f"round({left})", f"int({left})", f"({left} if {right} else 3)",
                f"len(str({left}))", f"sum([{left}, {right}])", f"divmod({left}, {right})[0]", f"pow(2, abs(int({left})) % 20)", f"({left} < {right})",
                f"(lambda q: q + {left})({right})", f"[{left}, {right}][{left} > 0]", f"sorted([{left}, {right}])[0]", f"int(float({left}))",
            )
        )
    )  # fmt: skip


@st.composite
def sequence(draw: st.DrawFn) -> str:
    """An expression that is a list."""
    n = draw(number(1))
    return draw(
        st.sampled_from(
            (
                f"[{n}, {draw(number(0))}]", "list(range(6))", f"[i * {draw(numbers)} for i in range(5) if i % 2]", "'a,b,c'.split(',')", "list(items)",
                "sorted(items, key=str)", "items[1:]", "items[::-1]", "list(map(str, items))", "[x for x in items if x]", "list(zip(items, items))",
                "list(enumerate(items, 1))", "[*items, 1]", "list({'k': 1, 'm': 2}.items())", "sorted({3, 1, 2})", "[[i] * 2 for i in range(3)]",
                "list('abc')", "list(filter(None, items))", "[(i, j) for i in range(2) for j in 'xy']", "list(reversed(items))",
            )
        )
    )  # fmt: skip


@st.composite
def text(draw: st.DrawFn) -> str:
    """An expression that is text."""
    t, n = draw(texts), draw(number(1))
    return draw(
        st.sampled_from(
            (
                f"({t} + {draw(texts)})", f"{t}.upper()", f"{t}.replace('a', 'z')", f"f'{{{n}!r:>12}}'", f"'{{}}-{{}}'.format({t}, {n})", f"'%s|%r' % ({t}, {t})",
                f"{t}[::-1]", "','.join(map(str, items))", f"str({n})", f"repr({t})", f"({t} * 3)[1:5]", f"{t}.center(9, '*')", f"{t}.title().swapcase()",
                f"{t}.encode().hex()", f"'{{0:08.3f}}'.format(float({n}))", f"format({n}, ',')", f"chr(97 + abs(int({n})) % 26)", f"type({n}).__name__",
            )
        )
    )  # fmt: skip


def expression() -> st.SearchStrategy[str]:
    """Any expression."""
    return st.one_of(number(), sequence(), text())


@st.composite
def simple(draw: st.DrawFn) -> list[str]:
    """One statement without a block."""
    kind = draw(st.integers(0, 19))
    if kind < 6:
        value = draw(expression())
        return (
            [f"print({value})"]
            if kind < 3
            else [f"c = {value}", "print(c)"]
            if kind < 5
            else [f"print({value}, sep='-', end='|')"]
        )
    if kind < 10:
        name = draw(st.sampled_from(("a", "b", "total")))
        return [f"{name} {'+=' if kind == 9 else '='} {draw(number(1))}"]
    if kind < 12:
        return [f"items = {draw(sequence())}"]
    if kind == 12:
        return [f"items.append({draw(number(1))})"]
    if kind == 13:
        return [f"assert {draw(number(1))}, 'no'"]
    return draw(
        st.sampled_from(
            (
                ["items[0] = total"], ["d = {}", "d['k'] = total", "d['k'] += 1", "print(d)"], ["x, *y = items", "print(x, y)"], ["del items[0]"],
                ["raise ValueError('x')"], ["import math", "print(math.floor(total))"], ["import json", "print(json.dumps(items))"],
                ["import re", "print(re.findall(r'[a-z]', str(c)))"], ["from collections import Counter", "print(sorted(Counter('abca').items()))"],
                ["print(isinstance(c, int))"], ["print([type(x).__name__ for x in items])"], ["a, b = b, a"],
            )
        )
    )  # fmt: skip


@st.composite
def statement(draw: st.DrawFn, depth: int = 2) -> list[str]:
    """One statement, as lines."""
    if depth == 0 or draw(st.booleans()):
        return draw(simple())
    body = ["    " + line for line in draw(block(depth - 1))]
    other = ["    " + line for line in draw(simple())]
    kind = draw(st.integers(0, 11))
    return (
        [f"if {draw(number(1))}:", *body, "else:", *other],
        [f"for i in range({draw(st.integers(0, 4))}):", *body],
        ["for v in list(items)[:4]:", "    print(v)", *body],
        ["try:", *body, "except (ValueError, TypeError, ZeroDivisionError) as e:", "    print('caught', type(e).__name__)"],
        ["try:", *body, "except Exception as e:", "    print(type(e).__name__)", "finally:", "    print('end')"],
        ["def f(p, q=2, *r, k=3, **m):", "    global total, a, b, c, items", *body, "    return p", "print(f(1, k=total))"],
        ["class K:", "    n = 3", "    def __init__(self, v): self.v = v", "    def __add__(self, o): return K(self.v + o.v)",
         "    def __repr__(self): return f'K({self.v})'", "print(K(1) + K(2), K.n)", *[line[4:] for line in body]],
        ["n = 0", "while n < 3:", "    n += 1", *body, "    if n == 2: continue"],
        ["def g():", "    yield 1", "    yield from range(2)", "print(list(g()))", *[line[4:] for line in body]],
        ["match items:", "    case []:", "        print('empty')", "    case [x, *_]:", *["    " + line for line in body], "    case _:", "        print('other')"],
        ["from contextlib import suppress", "with suppress(Exception):", *body],
        ["class A:", "    def m(self): return 'A'", "class B(A):", "    def m(self): return super().m() + 'B'", "print(B().m())", *[line[4:] for line in body]],
    )[kind]  # fmt: skip


@st.composite
def block(draw: st.DrawFn, depth: int = 1) -> list[str]:
    """A few statements."""
    return [line for lines in draw(st.lists(statement(depth), min_size=1, max_size=2)) for line in lines]


@st.composite
def programs(draw: st.DrawFn) -> str:
    """A whole program, that ends with an expression."""
    lines = [line for lines in draw(st.lists(statement(2), min_size=1, max_size=4)) for line in lines]
    start = ["a, b, c, total = 1, 2.5, 'c', 7", "items = [3, 1, 2]"]
    return "\n".join([*start, *lines, draw(expression())]) + "\n"
