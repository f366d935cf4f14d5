"""Which image is used: the one that is named, the local one, the official one; and that what is missing is pulled."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from safeexec import BackendUnavailable, Executor
from safeexec_backends.docker import setup
from tests.docker.daemon import Daemon
from tests.docker.registry import Registry, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SLIM = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


@pytest.fixture(scope="module")
def registry(client: Any) -> Iterator[Registry]:
    with serving(client, setup.local_image()) as made:
        yield made


@pytest.fixture(scope="module")
def bare(registry: Registry) -> Iterator[Daemon]:
    """A daemon without any image, whose mirror of the official ones is ours."""
    made = Daemon(Path(tempfile.mkdtemp(prefix="safeexec-dockerd-")), mirror=f"http://{registry.url}")
    yield made
    made.close()
    assert not made.folder.exists()


def used(url: str, **options: Any) -> str:
    """The image of a session that runs."""
    with Executor("docker", url=url, **options) as executor, executor.session() as session:
        assert session.run("6 * 7").value == 42
        client = docker.DockerClient(base_url=url)
        try:
            return str(client.api.inspect_container(session._guest.id)["Image"])  # type: ignore[attr-defined]
        finally:
            client.close()


def test_official_image_is_pulled_where_there_is_no_other_and_the_local_one_is_preferred(
    bare: Daemon, registry: Registry
) -> None:
    client = docker.DockerClient(base_url=bare.url)
    try:
        assert client.images.list() == []
        pulled = used(bare.url)
        assert client.images.get(SLIM).id == pulled
        assert any(path == f"/v2/library/python/manifests/{SLIM.partition(':')[2]}" for path in registry.asked)
        asked = len(registry.asked)
        assert used(bare.url) == pulled and len(registry.asked) == asked, "what is there is not asked for"
        local = client.images.get(setup.build_image(bare.url)).id
        assert local != pulled
        assert used(bare.url) == local
        assert used(bare.url, image=SLIM) == pulled
    finally:
        client.close()


def test_image_that_is_named_is_pulled_from_the_registry_it_names(bare: Daemon, registry: Registry) -> None:
    name = f"{registry.url}/team/python"
    pulled = used(bare.url, image=name)
    assert any(path == "/v2/team/python/manifests/latest" for path in registry.asked)
    client = docker.DockerClient(base_url=bare.url)
    try:
        by_digest = next(digest for digest in client.images.get(pulled).attrs["RepoDigests"] if digest.startswith(name))
    finally:
        client.close()
    assert used(bare.url, image=by_digest) == pulled


def test_pull_that_fails_names_both_ways_out(bare: Daemon) -> None:
    with pytest.raises(BackendUnavailable, match=r"docker pull 127\.0\.0\.1:1/nobody/python:9$"):
        Executor("docker", url=bare.url, image="127.0.0.1:1/nobody/python:9")
