"""The audit as one self-contained page.

Whatever an attack printed is hostile to whoever opens the page: it is neutralised and escaped, there is one script, named by its hash in the policy,
and nothing is loaded from anywhere. Without the script everything is there but sorting and filtering.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from safeexec.text import neutralise

from .table import rows


def build(document: Mapping[str, Any]) -> str:
    """The page."""
    folder = files(__package__)
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style_digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style_digest}'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    system = document["system"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_text(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">',
        f"<title>Sandbox audit</title><style>{style}</style></head><body><header><h1>Sandbox audit</h1>",
        f"<p>{_text(document['date'])} · safeexec {_text(document['safeexec'])} · {_text(system['os'])} {_text(system['kernel'])} ",
        f"({_text(system['machine'])}) · judged by effect</p></header><main>",
        _tiles(document),
        _heat(document),
        _escapes(document),
        _cases(document),
        "</main>",
        f"<script>{script}</script></body></html>",
    ]
    return "".join(parts)


def _text(text: object) -> str:
    return html.escape(neutralise(str(text)), quote=True)


def _tiles(document: Mapping[str, Any]) -> str:
    tiles = []
    for name, target in document["targets"].items():
        judged = target["contained"] + target["escaped"]
        share = f"{100 * target['contained'] / judged:.1f} %" if judged else "–"
        ordinary = target["benign"] - target["benign_na"]
        kind = "bad" if target["escaped"] else "broken" if target["error"] or target["broken"] else "good"
        error = f'<p class="why">{_text(target["error"][-600:])}</p>' if target["error"] else ""
        tiles.append(
            f'<article class="tile {kind}"><h2>{_text(name)}</h2><p class="version">{_text(target["version"])}</p><p class="figure">{share}</p>'
            f"<p>of {judged} attacks contained</p><dl><dt>escaped</dt><dd>{target['escaped']}</dd><dt>not applicable</dt><dd>{target['na']}</dd>"
            f"<dt>broken</dt><dd>{target['broken']}</dd><dt>seen to bite</dt><dd>{target['validated']}</dd>"
            f"<dt>ordinary programs</dt><dd>{target['benign_ok']}/{ordinary}</dd></dl>{error}</article>"
        )
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _shade(share: float) -> int:
    return round(share * 10)


def _heat(document: Mapping[str, Any]) -> str:
    targets = document["targets"]
    head = "".join(f'<th scope="col"><button type="button">{_text(name)}</button></th>' for name in targets)
    lines = []
    for kind, category in rows(document):
        cells = []
        for target in targets.values():
            cases = [c for c in target["cases"] if c["category"] == category and c["kind"] == kind]
            judged = [c for c in cases if c["outcome"] not in ("na", "broken")]
            good = sum(c["outcome"] in ("contained", "ok") for c in judged)
            if judged:
                share = good / len(judged)
                cells.append(f'<td class="heat h{_shade(share)}" data-sort="{share:.4f}">{good}/{len(judged)}</td>')
            else:
                cells.append(
                    f'<td class="heat none" data-sort="-1">{"broken" if cases and cases[0]["outcome"] == "broken" else "n/a"}</td>'
                )
        label = f"{category} <small>ordinary programs</small>" if kind == "benign" else _text(category)
        lines.append(
            f'<tr class="{_text(kind)}"><th scope="row" data-sort="{_text(category)}">{label}</th>{"".join(cells)}</tr>'
        )
    return (
        "<section><h2>Contained, by category</h2><p>Of the attacks that could be judged; below them, ordinary programs that ran as they should. "
        'Press a heading to sort.</p><div class="scroll"><table class="sortable" id="heat"><thead><tr>'
        f'<th scope="col"><button type="button">category</button></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div></section>'
    )


def _escapes(document: Mapping[str, Any]) -> str:
    parts = []
    for name, target in document["targets"].items():
        found = [c for c in target["cases"] if c["outcome"] in ("escaped", "blocked", "broken")]
        if not found:
            parts.append(f'<h3>{_text(name)}</h3><p class="none">Nothing escaped, nothing ordinary was blocked.</p>')
            continue
        items = []
        for case in found:
            effects = "; ".join(f"{e['name']}: {e['detail']}" for e in case["effects"]) or case["why"]
            said = f"<p>It answered:</p><pre>{_text(case['text'])}</pre>" if case["text"] else ""
            items.append(
                f'<details class="{_text(case["outcome"])}"><summary><b>{_text(case["outcome"])}</b> {_text(case["id"])} '
                f"<small>{_text(case['category'])}{' · ' + _text(case['reference']) if case['reference'] else ''}</small></summary>"
                f"<p>{_text(case['mechanism'])}</p><p><b>Effect:</b> {_text(effects)}</p><p><b>Again:</b> <code>{_text(case['reproduce'])}</code></p>"
                f"<pre>{_text(case['code'])}</pre>{said}</details>"
            )
        escaped = sum(c["outcome"] == "escaped" for c in found)
        parts.append(
            f"<h3>{_text(name)}: {escaped} escaped, {len(found) - escaped} blocked or broken</h3>{''.join(items)}"
        )
    return f"<section><h2>What was found</h2>{''.join(parts)}</section>"


def _cases(document: Mapping[str, Any]) -> str:
    targets = document["targets"]
    table: dict[str, dict[str, Any]] = {}
    for name, target in targets.items():
        for case in target["cases"]:
            table.setdefault(case["id"], {"case": case, "outcomes": {}})["outcomes"][name] = case["outcome"]
    head = "".join(f'<th scope="col"><button type="button">{_text(name)}</button></th>' for name in targets)
    lines = []
    for identity, row in table.items():
        case = row["case"]
        cells = "".join(
            f'<td class="o {_text(row["outcomes"].get(n, "none"))}">{_text(row["outcomes"].get(n, "–"))}</td>'
            for n in targets
        )
        bite = "" if case["kind"] == "benign" else "yes" if case["validated"] else "never"
        lines.append(
            f'<tr><th scope="row" title="{_text(case["mechanism"])}">{_text(identity)}</th><td>{_text(case["category"])}</td>'
            f"<td>{_text(case['expected_effect'])}</td><td>{bite}</td>{cells}</tr>"
        )
    return (
        '<section><h2>All cases</h2><p><label>Show only <input id="filter" type="search" placeholder="id, category, outcome"></label></p>'
        '<div class="scroll"><table class="sortable" id="cases"><thead><tr><th scope="col"><button type="button">case</button></th>'
        '<th scope="col"><button type="button">category</button></th><th scope="col"><button type="button">proof</button></th>'
        f'<th scope="col"><button type="button">seen to bite</button></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div></section>'
    )
