"""The audit as SARIF 2.1.0, for services that show findings of scanners. Source: OASIS SARIF 2.1.0, schema of errata 01."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safeexec.text import neutralise

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def build(document: Mapping[str, Any]) -> dict[str, Any]:
    """One run for each target; a rule for each attack that escaped, a result for each escape."""
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [_run(name, target, document) for name, target in document["targets"].items()],
    }


def _run(name: str, target: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    escaped = [c for c in target["cases"] if c["outcome"] == "escaped"]
    rules = [
        {
            "id": case["id"],
            "shortDescription": {"text": neutralise(case["mechanism"] or case["id"])},
            "fullDescription": {"text": neutralise(f"{case['mechanism']}. {case['reference']}".strip())},
            "defaultConfiguration": {"level": "error"},
            "properties": {"tags": ["security", case["category"]], "security-severity": "9.0"},
        }
        for case in escaped
    ]
    results = [
        {
            "ruleId": case["id"],
            "ruleIndex": index,
            "level": "error",
            "kind": "fail",
            "message": {
                "text": neutralise("; ".join(f"{e['name']}: {e['detail']}" for e in case["effects"])) or "escaped"
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": f"safeexec-audit/{case['category']}/{case['id']}.py"},
                        "region": {"startLine": 1},
                    },
                    "logicalLocations": [{"name": neutralise(name), "kind": "module"}],
                }
            ],
            "partialFingerprints": {"safeexecCase/v1": f"{neutralise(name)}/{case['id']}"},
            "properties": {"reproduce": neutralise(case["reproduce"]), "validated": case["validated"]},
        }
        for index, case in enumerate(escaped)
    ]
    return {
        "tool": {
            "driver": {
                "name": "safeexec audit",
                "version": document["safeexec"],
                "informationUri": "https://pypi.org/project/safeexec/",
                "rules": rules,
            }
        },
        "invocations": [
            {"executionSuccessful": not target["error"], "startTimeUtc": document["date"].replace("+00:00", "Z")}
        ],
        "automationDetails": {"id": f"safeexec-audit/{neutralise(name)}/"},
        "properties": {
            k: target[k]
            for k in ("attacks", "contained", "escaped", "validated", "na", "broken", "benign", "benign_ok")
        },
        "results": results,
    }
