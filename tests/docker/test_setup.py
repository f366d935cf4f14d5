"""The commands: ``safeexec setup docker`` and what ``safeexec doctor`` shows and removes of it."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from safeexec import Executor
from safeexec.cli.main import main
from safeexec_backends.docker import cli, reaper, setup


def run(*args: str) -> Any:
    return CliRunner().invoke(cli.command, args)


def test_setup_makes_the_image_once_and_runs_a_line_in_it(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.images.get(setup.local_image()).id
    ran = run()
    assert ran.exit_code == 0, ran.output
    assert "was there already" in ran.output and client.images.get(setup.local_image()).id == first
    # One of another build of this Python version is replaced; the next tests get theirs by --rebuild.
    monkeypatch.setattr(sys, "version", sys.version + " another build")
    assert setup.ensure_image()[1] is True
    monkeypatch.undo()
    second = client.images.get(setup.local_image()).id
    assert second != first
    ran = run("--rebuild")
    assert ran.exit_code == 0, ran.output
    assert "packing the interpreter" in ran.output and "MB as safeexec-python:" in ran.output
    assert "the docker sandbox is ready: safeexec-python:" in ran.output and " made; " in ran.output
    assert client.images.get(setup.local_image()).id not in (first, second)
    left = {image.id for image in client.images.list(all=True)}
    assert not {first, second} & left, "images that were replaced stayed"


def test_images_with_packages_go_with_the_image_they_were_made_of(client: Any) -> None:
    """Made of another, nothing finds them any more. What a container runs on stays."""
    base = client.images.get(setup.local_image()).id
    made = {}
    for name in ("unused", "used"):
        container = client.api.create_container(base, command=["python3"])["Id"]
        try:
            conf = {"Labels": {setup.BASE_LABEL: base, "safeexec.image": "packages"}}
            made[name] = client.api.commit(container, repository="safeexec-packages", tag=name, conf=conf)["Id"]
        finally:
            client.api.remove_container(container, force=True)
    with Executor("docker", image="safeexec-packages:used") as executor, executor.session() as session:
        assert session.run("6 * 7").value == 42
        setup.build_image()
        left = {image.id for image in client.images.list(all=True)}
        assert made["unused"] not in left and {made["used"], base} <= left
        assert session.run("6 * 7").value == 42
    client.images.remove(made["used"])  # and with it the one it was made of, which has no name any more


def test_setup_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", "docker", "--url", "unix:///nonexistent/docker.sock"]) == 4
    assert "start Docker" in capfd.readouterr().err
    assert main(["setup", "docker", "--package", "--index-url=x"]) == 2
    assert "is not a name with an optional version" in capfd.readouterr().err
    monkeypatch.setattr(sys, "platform", "darwin")
    assert main(["setup", "docker", "--rebuild"]) == 4
    assert "docker pull python:3." in capfd.readouterr().err


def test_doctor_cleans_what_a_dead_host_left_and_nothing_else(client: Any, capfd: pytest.CaptureFixture[str]) -> None:
    own = reaper.labels("a", "session")
    kinds = {
        "dead": {**own, reaper.OWNER: "4194305.1"},  # above any process id that Linux gives
        "rebooted": {**own, reaper.BOOT: "another:pid"},
        "living": own,
        "elsewhere": {**own, reaper.HOST: "another"},
    }
    made = {
        name: client.api.create_container(setup.local_image(), command=["python3"], labels=labels)["Id"]
        for name, labels in kinds.items()
    }
    try:
        assert main(["doctor", "--clean", "--sandbox", "docker"]) == 0
        out = capfd.readouterr().out
        left = {item.id for item in reaper.find(client)}
        assert {name for name, identity in made.items() if identity in left} == {"living", "elsewhere"}
        assert (
            f"docker: removed container {made['dead'][:12]} (session, created) of process 4194305, which is gone" in out
        )
        assert (
            f"docker: left alone: container {made['living'][:12]}" in out
            and f"process {os.getpid()}, which runs" in out
        )
        assert f"docker: left alone: container {made['elsewhere'][:12]}" in out
    finally:
        for identity in made.values():
            reaper.remove(client, identity)
    assert main(["doctor", "--clean", "--sandbox", "docker"]) == 0
    assert capfd.readouterr().out == "docker: nothing was left behind\n"


def test_doctor_shows_the_daemon_the_runtime_and_the_image(docker_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--sandbox", "docker"]) == 0
    out = capfd.readouterr().out
    assert f"at {docker_url}\n" in out and "  runtime: runc; the daemon has " in out
    assert f"  image: {setup.local_image()} (sha256:" in out
