"""Agents as Spaces of a Hub, over loopback: what is sent there, and what is fetched from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from safeexec_agent import AgentError, ScriptedModel
from safeexec_agent.hub import download
from tests.agent.alfred import ANSWER, alfred
from tests.agent.conftest import Make
from tests.agent.hub import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert huggingface_hub.HfApi().endpoint == server.url
    yield server
    server.close()


def test_to_the_hub_and_back(make: Make, hub: Hub, tmp_path: Path) -> None:
    agent = alfred(make, [])
    assert agent.push_to_hub("me/AlfredAgent", token="hf_canary").endswith("spaces/me/AlfredAgent")
    assert hub.created[0]["sdk"] == "gradio" and hub.created[0]["type"] == "space"
    assert {
        "agent.json",
        "app.py",
        "prompts.yaml",
        "requirements.txt",
        "tools/suggest_menu.py",
        "managed_agents/web_agent/agent.json",
    } <= set(hub.files)
    assert "hf_canary" not in "".join(data.decode() for data in hub.files.values())
    hub.files["evil.bin"] = b"not wanted"
    # As the course's page does it: on an instance.
    with agent.from_hub(
        "me/AlfredAgent", token="hf_canary", model=ScriptedModel(["plan", *ANSWER]), sandbox="local", verbosity_level=0
    ) as loaded:
        assert loaded.run("Go.") == ("formal dinner for 4", "x dinner for 2", "Gala")
    assert not any("evil.bin" in path and "/resolve/" in path for _, path, _, _ in hub.requests)


@pytest.mark.parametrize(
    "files",
    [
        {"managed_agents/a/tools/large.py": b"x" * 1_000_001},
        {"tools/large.py": b"#" * 1_000_001},
        {f"managed_agents/a{number}/agent.json": b"{}" for number in range(1001)},
    ],
)
def test_a_space_as_large_as_the_disk_is_not_fetched(hub: Hub, files: dict[str, bytes]) -> None:
    hub.files.update({"agent.json": b"{}", **files})
    with pytest.raises(AgentError, match=r"larger than|1000 are read"):
        download("me/AlfredAgent", None, None)
    assert not any("/resolve/" in path for _, path, _, _ in hub.requests)


def test_what_is_no_part_of_an_agent_is_not_fetched(hub: Hub) -> None:
    others = (
        "managed_agents/a/weights.bin",
        "tools/../x.py",
        "tools/[a].py",
        "managed_agents/huge",
        "app.py",
        "tools/deep/x.py",
    )
    hub.files.update(
        {"agent.json": b"{}", "managed_agents/a/agent.json": b"{}", "tools/x.py": b"", **dict.fromkeys(others, b"x")}
    )
    folder = download("me/AlfredAgent", None, None)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"agent.json", "managed_agents/a/agent.json", "tools/x.py"}
