"""The fuzzers find what is there, and find nothing in our sandboxes in the time that CI has."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from safeexec import Executor
from safeexec_fuzz import cases, targets
from safeexec_fuzz.attacker import Attacker, Unusable
from safeexec_fuzz.fuzzing import attacks, benign, native
from safeexec_fuzz.fuzzing.cli import Book, search
from safeexec_fuzz.fuzzing.differential import Comparison
from safeexec_fuzz.fuzzing.machine import Sessions, machine, policy

quick = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def attack_with(
    attacker: Attacker, strategy: st.SearchStrategy[tuple[str, str]], count: int, start: int
) -> dict[str, int]:
    """How many generated programs of each kind had an effect."""
    hits: dict[str, int] = {}

    @seed(start)
    @settings(quick, max_examples=count, phases=[p for p in settings.default.phases if p.name == "generate"])
    @given(strategy)
    def go(example: tuple[str, str]) -> None:
        kind, code = example
        if attacker.attack(code):
            hits[kind] = hits.get(kind, 0) + 1

    go()
    return hits


def test_generated_attacks_bite_the_weak_executor() -> None:
    with Attacker(targets.target("weak")) as attacker:
        hits = attack_with(attacker, attacks.programs(), 30, 5)
    assert {"chain", "import", "hook"} <= set(hits)


@pytest.mark.parametrize("name", ["local", "wasm"])
def test_generated_attacks_are_contained(name: str) -> None:
    with Attacker(targets.sandbox(name)) as attacker:
        assert attack_with(attacker, attacks.programs(), 40, 7) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["local", "wasm"])
def test_more_generated_attacks_are_contained(name: str) -> None:
    with Attacker(targets.sandbox(name)) as attacker:
        assert attack_with(attacker, attacks.programs(), 600, 11) == {}
        assert attack_with(attacker, attacks.loops().map(lambda code: ("loop", code)), 60, 13) == {}


def test_a_fuzzer_says_why_a_target_cannot_be_attacked() -> None:
    with pytest.raises(Unusable, match="nowhere"):
        Attacker(targets.sandbox("nowhere"))


@pytest.fixture(scope="module")
def comparison() -> Iterator[Comparison]:
    with Comparison() as made:
        yield made


def test_generated_ordinary_programs_agree_with_plain_python(comparison: Comparison) -> None:
    @seed(3)
    @settings(quick, max_examples=60)
    @given(benign.programs())
    def go(code: str) -> None:
        assert comparison.differences(code) == []

    go()


def test_a_difference_is_seen(comparison: Comparison) -> None:
    # Names of the implementation differ: wasm has another platform.
    assert any(line.startswith("wasm") for line in comparison.differences("import sys\nsys.platform\n"))


def test_generated_programs_do_various_things() -> None:
    seen: set[str] = set()

    @seed(1)
    @settings(quick, max_examples=150)
    @given(benign.programs())
    def go(code: str) -> None:
        compile(code, "x", "exec")
        seen.update(
            word for word in ("class ", "def ", "try:", "match ", "while ", "with ", "yield", "raise") if word in code
        )

    go()
    assert len(seen) >= 7


@pytest.mark.parametrize("name", ["local", "wasm"])
def test_sessions_keep_to_their_model(name: str) -> None:
    with Executor(name, policy=policy()) as executor:
        kind = seed(5)(machine(executor))
        run_state_machine_as_test(kind, settings=settings(quick, max_examples=4, stateful_step_count=20))


def test_the_machine_sees_a_session_that_forgets() -> None:
    with Executor("local", policy=policy()) as executor:

        class Forgetful(machine(executor)):  # type: ignore[misc]
            def read(self, model: object, name: str) -> None:
                raise AssertionError

        broken = type(
            "Broken",
            (Sessions,),
            {"executor": executor, "sessions_say_whether_they_are_open": Sessions.sessions_say_whether_they_are_open},
        )
        model = broken()
        session = model.open({"x": 1})
        session.session.run("del x")
        with pytest.raises(AssertionError):
            model.read(session, "x")
        model.teardown()


@pytest.mark.parametrize("name", sorted(native.targets()))
def test_bytes_do_no_harm(name: str) -> None:
    one = native.targets()[name]

    @seed(9)
    @settings(quick, max_examples=400)
    @given(st.binary(max_size=200))
    def go(data: bytes) -> None:
        one(data)

    go()


def test_rooms_offer_the_three_targets() -> None:
    assert set(native.targets()) == {"files", "frames", "language"}


@pytest.mark.parametrize(("target", "name", "data"), native.findings(), ids=lambda v: v if isinstance(v, str) else "")
def test_what_was_found_before_stays_repaired(target: str, name: str, data: bytes) -> None:
    native.targets()[target](data)


REMOVED = """
import os
os.mkdir('a'); os.mkdir('q'); os.chdir('a'); os.rmdir('../a')
said = []
for call in (lambda: os.mkdir('b'), lambda: open('f', 'w'), lambda: os.rename('/sandbox/q', '.'), lambda: os.symlink('x', 'l')):
    try:
        call()
    except OSError as error:
        said.append(type(error).__name__)
said
"""


def test_a_removed_working_directory_does_not_end_the_session() -> None:
    with Executor("wasm") as executor, executor.session() as session:
        result = session.run(REMOVED)
        assert result.error is None and result.value == [
            "FileNotFoundError",
            "FileNotFoundError",
            "OSError",
            "FileNotFoundError",
        ]
        assert session.run("1 + 1").value == 2


def test_search_finds_and_shrinks() -> None:
    count, found = search(st.lists(st.integers()), lambda x: "three" if len(x) >= 3 else "", 20, 1)
    assert count and found == ([0, 0, 0], "three")
    assert search(st.integers(), lambda _: "", 0.2, 1)[1] is None


def test_a_reproducer_is_a_case_of_the_corpus(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.note("escaped", "local", "print('''x''')\n", "canary")
    (file,) = tmp_path.iterdir()
    (case,) = cases.parse(tomllib.loads(file.read_text()), "finding", file.name, {})
    assert case.steps[0].code == 'print("""x""")\n' and case.effect == "canary"


def test_fuzz_command_runs_says_its_seed_and_fails_on_a_finding(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "safeexec",
        "fuzz",
        "--minutes",
        "0.1",
        "--stage",
        "attacks",
        "--seed",
        "5",
        "--findings",
        str(tmp_path),
    ]
    good = subprocess.run([*words, "--sandbox", "local"], capture_output=True, text=True, timeout=100)
    assert good.returncode == 0 and "seed 5" in good.stdout, good.stdout + good.stderr
    bad = subprocess.run([*words, "--target", "weak"], capture_output=True, text=True, timeout=115)
    assert bad.returncode == 1 and list(tmp_path.glob("weak-*.toml")), bad.stdout + bad.stderr


@pytest.mark.slow
def test_coverage_guided_fuzzing_finds_nothing(tmp_path: Path) -> None:
    if not native.have_atheris():
        pytest.skip("n/a: atheris is an extra of its own (safeexec[fuzz-native]); the bytes above come from hypothesis")
    for name in native.targets():
        clean, text = native.guided(name, 20, tmp_path)
        assert clean, text
