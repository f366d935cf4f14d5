"""A program is compiled without a tree of objects where its last line tells whether it has a value. The result must be the tree's."""

from __future__ import annotations

import ast
import random
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

from safeexec.guest import Python, _look_at_end

FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
HERE = Path(__file__).parents[2]


def by_tree(source: str, filename: str) -> list[types.CodeType]:
    tree = compile(source, filename, "exec", FLAGS | ast.PyCF_ONLY_AST, dont_inherit=True)
    codes = []
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if tree.body:
        codes.append(compile(tree, filename, "exec", FLAGS, dont_inherit=True))
    if last is not None:
        codes.append(compile(ast.Expression(last.value), filename, "eval", FLAGS, dont_inherit=True))
    return codes


def shape(code: types.CodeType) -> tuple[Any, ...]:
    constants = tuple(shape(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_flags, code.co_name, list(code.co_positions())[1:]


EMPTY = shape(compile("", "f", "exec", FLAGS, dont_inherit=True))


def outcome(make: Any, source: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shapes = [shape(code) for code in make(source, "f")]
        except (SyntaxError, ValueError) as error:
            return type(error), str(error), getattr(error, "lineno", None), getattr(error, "offset", None)
    return [found for found in shapes if found[:3] != EMPTY[:3]]


HARD = [
    "x = 1",
    "x = 1\nx",
    "x = 1; x",
    "x == 1\n",
    "# only a comment",
    "x = 1\nx\n# and a comment\n\n",
    "f(\n    1,\n    2)",
    "f(\n    b=1)",
    "f(\n1\n)",
    "x = (\n1\n)",
    "'''a\nb'''",
    "x = '''a\n# b\nc'''",
    "x = 'a\\\nb'\nx",
    "1 + \\\n  2",
    "x = 1 + \\\n2",
    "x \\\n  = 2",
    "lambda x=1: x",
    "y = 2\nlambda x=1: x",
    "if 1:\n    x = 2\nelse: 3",
    "if 1:\n    f(')')",
    "for x in y:\n    print(x)  # )",
    "d = {'a': [1, (2)]}\nd['a'][0]",
    "d = 1\nf'{d!r}' ')'",
    "f(a=1)\nf(a=2)",
    "x: int",
    "x: int = 3",
    "x <<= 2",
    "a <= b",
    "a\nb != c",
    "@f\ndef g(): pass",
    "@f\n",
    "match = 1\nmatch",
    "match x:\n    case 1: pass\ncase(2)",
    "try:\n    x\nexcept E: pass",
    "try:\n    x\n",
    "async def f(): pass\nawait f()",
    "x = await f()",
    "import a; a.b",
    "return 1",
    "x = 1\nreturn x",
    "def f():\n    yield 1\n(yield)",
    "x = 1\n  y = 2",
    "  x",
    "((((((",
    "x = 1\n)",
    "print('it\\'s')",
    "print(\"a ' b\", 'c \" d')",
    "x = 1\n*a, b",
    "x = [\n1,\n2]\nx",
    "x = 1\n'unterminated",
    "x = 1\nnot x",
    "x = 1\nnot(x)",
    "a if b else c",
    "z\na if b else c",
    "\n\n\n",
    "",
    "x\r\ny",
    "x\fy",
    "é = 1\né",
    "x = 1\nx if x else \\\n2",
    "x = '\\d'\n'\\d'",
    "from __future__ import annotations\ndef f(x: y): pass\nf",
    '"doc"\n1',
    "x = 1\n" + "(" * 1500 + ")" * 1500,
]


@pytest.mark.parametrize("source", HARD)
def test_it_is_what_the_tree_gives(source: str) -> None:
    assert outcome(Python().compile, source) == outcome(by_tree, source)


def test_it_is_what_the_tree_gives_for_pieces_of_programs() -> None:
    chance = random.Random(5)
    files = sorted((HERE / "safeexec").rglob("*.py")) + sorted((HERE / "tests" / "core").glob("*.py"))
    seen: dict[str, int] = {}
    for _ in range(3000):
        lines = chance.choice(files).read_text().split("\n")
        start = chance.randrange(len(lines))
        piece = textwrap.dedent("\n".join(lines[start : start + chance.randrange(1, 20)]))
        found = outcome(Python().compile, piece)
        assert found == outcome(by_tree, piece), piece
        if isinstance(found, list):
            kind = _look_at_end(piece)[0]
            seen[kind] = seen.get(kind, 0) + 1
    assert seen["statement"] > 50 and seen["expression"] > 50, f"hardly any was compiled the short way: {seen}"
