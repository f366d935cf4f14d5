"""The corpus is data, whole, and every attack in it was seen to bite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safeexec_fuzz import audit, cases

ATTACKS = cases.load(("attack",))
BENIGN = cases.load(("benign",))
CATEGORIES = {
    "attributes", "formats", "guards", "imports", "reexports", "deserialisation", "protocol", "tools", "files", "network", "processes", "secrets", "loops",
    "memory", "parser", "results", "isolation", "persistence",
}  # fmt: skip


def test_is_as_large_as_it_says() -> None:
    assert len(ATTACKS) >= 580 and len(BENIGN) >= 170
    assert {case.category for case in ATTACKS} == CATEGORIES


def test_every_effect_proves_some_attack() -> None:
    assert {case.effect for case in ATTACKS} == set(cases.EFFECTS)


def test_every_attack_says_how_it_works() -> None:
    assert [case.id for case in ATTACKS if len(case.mechanism) < 8] == []


@pytest.mark.parametrize(
    "advisory",
    [
        "CVE-2025-5120", "CVE-2025-9959", "CVE-2025-14931", "CVE-2023-37271", "CVE-2023-41039", "CVE-2024-47532", "CVE-2025-22153", "CVE-2026-55830",
        "CVE-2026-76825", "CVE-2025-68668", "CVE-2026-0863", "CVE-2025-3248", "PraisonAI", "Langflow", "mcp-run-python", "Cellbreak",
    ],
)  # fmt: skip
def test_public_advisory_is_a_case(advisory: str) -> None:
    assert any(advisory in case.reference for case in ATTACKS)


def test_every_attack_was_seen_to_bite_as_it_is_now() -> None:
    bitten = audit.bitten()
    assert [case.id for case in ATTACKS if bitten.get(case.id) != case.digest] == []  # python -m safeexec_fuzz.validate
    assert set(bitten) == {case.id for case in ATTACKS}


def test_benign_cases_say_what_comes_out() -> None:
    assert [case.id for case in BENIGN if case.stdout is None and case.error is None] == []


def test_no_case_names_a_host_beyond_this_machine() -> None:
    for case in (*ATTACKS, *BENIGN):
        for step in case.steps:
            for address in re.findall(r"https?://([^/'\"\s]+)", step.code):
                assert address.startswith(("127.0.0.1", "a.b", "a", "::")), (case.id, address)


def parse(text: str) -> list[cases.Case]:
    import tomllib

    return cases.parse(
        tomllib.loads(text), "attack", "test.toml", {"payloads": {"p": "print(1)\n"}, "preludes": {"q": "b = 2\n"}}
    )


def test_a_case_may_have_steps_and_a_payload() -> None:
    (case,) = parse(
        'category = "c"\n[[case]]\nid = "x"\neffect = "canary"\npayload = "p"\nprelude = "q"\n[[case.step]]\ncode = "a = 1"\nsession = "s"\n'
    )
    assert case.steps == (cases.Step("b = 2\na = 1\nprint(1)\n", "s"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[case]]\nid = "x"\n', "no category"),
        ('category = "c"\n[[case]]\nid = "x y"\ncode = "1"\neffect = "canary"', "id"),
        ('category = "c"\n[[case]]\nid = "x"\neffect = "canary"', "code or steps"),
        ('category = "c"\n[[case]]\nid = "x"\ncode = "1"\neffect = "fame"', "effect"),
        ('category = "c"\n[[case]]\nid = "x"\ncode = "1"\neffect = "canary"\nneeds = ["luck"]', "needs"),
        ('category = "c"\n[[case]]\nid = "x"\ncode = "1"\neffect = "canary"\nnedes = []', "unknown field"),
        ('category = "c"\n[[case]]\nid = "x"\ncode = "1"\neffect = "canary"\npayload = "z"', "no z among the payloads"),
    ],
)
def test_a_wrong_case_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(cases.CorpusError, match=said):
        parse(text)


def test_selecting_what_is_not_there_is_an_error() -> None:
    assert len(cases.select(ATTACKS, ["network"], [])) > 10
    assert [c.id for c in cases.select(ATTACKS, [], ["net-tcp"])] == ["net-tcp"]
    with pytest.raises(cases.CorpusError, match="no case nowhere"):
        cases.select(ATTACKS, [], ["nowhere"])


def test_the_corpus_is_packaged() -> None:
    root = Path(cases.__file__).parent / "corpus"
    assert {p.name for p in root.iterdir()} >= {"attacks", "benign", "findings", "payloads.toml", "validated.json"}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "SECURITY.md", "docs/audit.md"])
def test_documents_give_the_right_numbers(name: str) -> None:
    text = (Path(__file__).parents[2] / name).read_text()
    assert set(re.findall(r"(\d+) attacks\b(?! escaped)", text)) == {str(len(ATTACKS))}
    assert set(re.findall(r"(\d+) ordinary programs", text)) <= {str(len(BENIGN))}
