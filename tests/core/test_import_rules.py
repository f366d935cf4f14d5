"""Who may import whom, and how light ``import safeexec`` is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "safeexec": ROOT / "safeexec",
    "safeexec_backends": ROOT / "backends" / "safeexec_backends",
    "safeexec_agent": ROOT / "agent" / "safeexec_agent",
    "safeexec_fuzz": ROOT / "fuzz" / "safeexec_fuzz",
}
INSIDE = tuple(f"egress/inside{part}.py" for part in ("", "_names", "_tls", "_threads", "_wasm"))
STANDARD = frozenset(sys.stdlib_module_names)


def imports(path: Path, package: str) -> Iterator[tuple[str, str | None, int]]:
    """Every import in a file, wherever it stands: module, name taken from it, line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None, node.lineno
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOMS[package].parent).parts[: -node.level] if node.level else ()
            for alias in node.names:
                yield ".".join([*above, *([node.module] if node.module else [])]), alias.name, node.lineno


def sources(room: str) -> list[tuple[Path, str, str | None, int]]:
    found = []
    for path in sorted(ROOMS[room].rglob("*.py")):
        found += [(path, module, name, line) for module, name, line in imports(path, room)]
    assert found or room in ("safeexec_agent", "safeexec_fuzz")
    return found


def test_core_imports_no_other_room() -> None:
    strays = [
        f"{path}:{line} {module}"
        for path, module, _, line in sources("safeexec")
        if module.partition(".")[0] in set(ROOMS) - {"safeexec"}
    ]
    assert strays == []


@pytest.mark.parametrize("room", sorted(set(ROOMS) - {"safeexec"}))
def test_rooms_do_not_import_each_other_and_take_public_names_only(room: str) -> None:
    strays = []
    for path, module, name, line in sources(room):
        top = module.partition(".")[0]
        if top in ROOMS and top not in (room, "safeexec"):
            strays.append(f"{path}:{line} {module}")
        if top == "safeexec":
            parts = [*module.split("."), *([name] if name else [])]
            if any(part.startswith("_") for part in parts):
                strays.append(f"{path}:{line} {module}.{name}: private")
    assert strays == []


def test_guest_and_wire_need_the_standard_library_only() -> None:
    for name in ("guest.py", "wire.py", *INSIDE):
        for module, _, line in imports(ROOT / "safeexec" / name, "safeexec"):
            top = module.partition(".")[0]
            allowed = {"numpy", "pandas", "PIL"} if name == "wire.py" else {"safeexec", "safeexec_wire"}
            if name in INSIDE:
                allowed = {"safeexec_inside", "safeexec_inside_names", "safeexec_inside_tls"}
            assert top in STANDARD or top in allowed, f"{name}:{line} {module}"


def test_guest_and_wire_parse_as_the_oldest_python_they_run_on() -> None:
    for name in ("guest.py", "wire.py", *INSIDE):
        ast.parse((ROOT / "safeexec" / name).read_text(encoding="utf-8"), feature_version=(3, 9))


def test_pytest_is_imported_by_the_testing_package_only() -> None:
    for path, module, _, line in sources("safeexec"):
        if module.partition(".")[0] in ("pytest", "hypothesis"):
            assert "testing" in path.parts, f"{path}:{line}"


def loaded(code: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "code", ["import safeexec", "from safeexec import Executor, Limits, Policy, Session, Result, Opaque, run"]
)
def test_importing_safeexec_imports_no_third_party_module(code: str) -> None:
    third = {
        name for name in loaded(code) if name.partition(".")[0] not in STANDARD and name.partition(".")[0] != "safeexec"
    }
    assert third == set()


def test_every_public_name_is_there() -> None:
    import safeexec

    for name in safeexec.__all__:
        assert getattr(safeexec, name) is not None
    assert set(safeexec.__all__) <= set(dir(safeexec))
    with pytest.raises(AttributeError):
        safeexec.no_such_name  # noqa: B018


def test_importing_safeexec_takes_less_than_60_ms() -> None:
    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import safeexec"],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
        # Cumulative microseconds.
        mine = [
            int(cumulative)
            for _, cumulative, name in lines[1:]
            if name.strip().partition(".")[0] == "safeexec" and not name.startswith("   ")
        ]
        assert mine
        return sum(mine) / 1000

    assert min(once() for _ in range(5)) < 60
