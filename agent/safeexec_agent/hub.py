"""Agents as Spaces of the Hugging Face Hub: a folder, sent there and fetched from there."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from safeexec_agent.errors import AgentError, NotInstalled
from safeexec_agent.sharing import MAX_FILE, save

_FILES = re.compile(r"(managed_agents/\w+/)*(agent\.json|prompts\.yaml|tools/\w+\.py)")
"""What of a Space makes up an agent."""
_MOST_FILES = 1000


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise NotInstalled("huggingface_hub is not installed: pip install 'safeexec[hub]'") from None
    return huggingface_hub


def push(agent: Any, repo_id: str, private: bool | None, token: str | None, message: str) -> str:
    """See CodeAgent.push_to_hub."""
    api = _hub().HfApi(token=token)
    url = api.create_repo(repo_id, private=private, exist_ok=True, repo_type="space", space_sdk="gradio")
    with tempfile.TemporaryDirectory() as folder:
        save(agent, Path(folder))
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, repo_type="space", commit_message=message)
    return str(url)


def download(repo_id: str, token: str | None, revision: str | None) -> Path:
    """The files of a Space that make up an agent. Raises AgentError for more, or larger ones, than an agent has."""
    about = _hub().HfApi(token=token).space_info(repo_id, revision=revision, files_metadata=True)
    files = [file for file in about.siblings or () if _FILES.fullmatch(file.rfilename)]
    # Before anything is fetched: the Space of a stranger may hold as much as the disk, under names that an agent has.
    if len(files) > _MOST_FILES:
        raise AgentError(f"{repo_id} has {len(files)} files of agents; {_MOST_FILES} are read")
    for file in files:
        if file.size is None or file.size > MAX_FILE:
            raise AgentError(f"{repo_id}: {file.rfilename} is larger than {MAX_FILE} bytes")
    # Of the commit that was looked at, whatever is uploaded meanwhile.
    options = {"repo_type": "space", "token": token, "revision": about.sha}
    return Path(_hub().snapshot_download(repo_id, **options, allow_patterns=[file.rfilename for file in files]))
