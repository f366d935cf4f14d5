"""Which daemon is meant, and what is said when it is not there, not allowed, too old, or no daemon at all."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, PolicyError
from safeexec.testing.base import eventually
from safeexec_backends.docker import daemon, reaper


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="sx") as name:
        yield Path(name)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, short: Path) -> Path:
    """Nothing says where a daemon is: neither the environment nor docker's settings nor a socket at a usual place."""
    for name in list(os.environ):
        if name.startswith("DOCKER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(short))
    monkeypatch.setenv("DOCKER_CONFIG", str(short / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short / "run"))
    monkeypatch.setattr(daemon, "_SYSTEM", (str(short / "system.sock"),))
    monkeypatch.setattr(daemon, "_PODMAN", (str(short / "podman.sock"),))
    (short / "run" / "podman").mkdir(parents=True)
    return short


def make_context(folder: Path, name: str, text: str) -> None:
    place = folder / "docker" / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    (place / "meta.json").write_text(text)
    (folder / "docker" / "config.json").write_text("{}")


def described(name: str, host: str) -> str:
    return json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}}})


def reached(url: str | None = None) -> str:
    client = daemon.connect(url)
    try:
        assert client.ping() is True
        return daemon.address(client)
    finally:
        client.close()


def refused(url: str | None = None) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        daemon.connect(url).close()
    return str(caught.value)


# -- which one --------------------------------------------------------------------------------------------------------


def test_address_that_is_given_comes_first(bare: Path, docker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    assert reached(docker_url) == docker_url
    assert "unix:///nonexistent.sock" in refused()
    monkeypatch.setenv("DOCKER_HOST", docker_url)
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")  # docker's own command lets DOCKER_HOST win too
    assert reached() == docker_url


def test_context_leads_to_its_daemon(bare: Path, docker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(bare, "mine", described("mine", docker_url))
    monkeypatch.setenv("DOCKER_CONTEXT", "mine")
    assert reached() == docker_url
    monkeypatch.delenv("DOCKER_CONTEXT")
    assert "no docker daemon answers" in refused()
    (bare / "docker" / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert reached() == docker_url
    with Executor("docker") as executor:
        assert executor.run("6 * 7").value == 42


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is not there"),
        ("null", "cannot be used"),
        ("{", "cannot be used"),
        ("[]", "cannot be used"),
        ("{}", "cannot be used"),
        (json.dumps({"Name": "other", "Endpoints": {}}), "cannot be used"),
    ],
)
def test_context_that_cannot_be_used_is_no_reason_for_another_daemon(
    bare: Path, docker_url: str, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    (bare / "system.sock").symlink_to(docker_url.removeprefix("unix://"))
    assert reached()
    make_context(bare, "another", described("another", docker_url))
    if text is not None:
        make_context(bare, "other", text)
    monkeypatch.setenv("DOCKER_CONTEXT", "other")
    message = refused()
    assert said in message and "'other'" in message and "docker context ls" in message


def test_contexts_in_the_working_directory_are_not_taken_for_docker_s(
    bare: Path, docker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_context(bare, "trap", described("trap", docker_url))
    (bare / "docker" / "config.json").unlink()
    monkeypatch.chdir(bare / "docker")
    monkeypatch.setenv("DOCKER_CONTEXT", "trap")
    assert "config.json" in refused()


def test_context_whose_daemon_is_gone_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(bare, "gone", described("gone", "unix:///nonexistent/gone.sock"))
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    message = refused()
    assert "unix:///nonexistent/gone.sock (docker's context 'gone')" in message and "start Docker" in message


@pytest.mark.parametrize("place", ["system.sock", "run/docker.sock", "run/podman/podman.sock", "podman.sock"])
def test_usual_sockets_are_found(bare: Path, docker_url: str, place: str) -> None:
    """Docker's, a rootless docker's, a rootless podman's, podman's."""
    assert "no docker daemon answers at" in refused()
    (bare / place).symlink_to(docker_url.removeprefix("unix://"))
    assert reached() == f"unix://{bare / place}"


def test_first_of_the_usual_sockets_is_taken(bare: Path, docker_url: str) -> None:
    for place in ("podman.sock", "run/podman/podman.sock", "run/docker.sock", "system.sock"):
        (bare / place).symlink_to(docker_url.removeprefix("unix://"))
        assert reached() == f"unix://{bare / place}"


def test_containers_of_a_killed_host_go_from_a_daemon_found_by_its_user(
    bare: Path, docker_url: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What removes them must find the same daemon, by the same signs."""
    make_context(bare, "mine", described("mine", docker_url))
    (bare / "docker" / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    (bare / "docker").rename(bare / ".docker")
    assert not os.environ.get("DOCKER_HOST")
    monkeypatch.delenv("DOCKER_CONFIG")
    script = str(Path(__file__).with_name("host.py"))
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as host:
        assert host.stdout is not None and host.stdout.readline() == b"running\n"
        assert reaper.find(client)
        host.send_signal(signal.SIGKILL)
        host.wait(30)
    assert eventually(lambda: reaper.find(client) == [])


# -- what is said -----------------------------------------------------------------------------------------------------


def test_no_permission_says_how_to_get_it(docker_url: str) -> None:
    """As a user who is not in the group: the kernel itself refuses."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                daemon.connect(docker_url)
                said = "it was let in"
            except BackendUnavailable as error:
                said = str(error)
            os.write(theirs, said.encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert "no permission" in said and docker_url in said and "usermod -aG docker" in said and "rootless" in said


Answer = Callable[..., str]


@pytest.fixture
def answering(short: Path) -> Iterator[Answer]:
    """Makes a socket that gives one and the same answer to whatever is asked, or none; returns its address."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    over = threading.Event()

    def make(body: str = "", status: int = 200, raw: bytes | None = None, silent: bool = False) -> str:
        listener = socket.socket(socket.AF_UNIX)
        path = short / f"{len(listeners)}.sock"
        listener.bind(str(path))
        listener.listen(9)
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    if silent:
                        over.wait(60)
                    else:
                        connection.sendall(raw if raw is not None else (head + body).encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        listeners.append(listener)
        threads.append(thread)
        return f"unix://{path}"

    yield make
    over.set()
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("version", ["1.39", "1.24", "1.18"])
def test_old_daemon_is_told_to_be_updated(answering: Answer, version: str) -> None:
    message = refused(answering(json.dumps({"ApiVersion": version})))
    assert "1.40 or later is needed (Docker 19.03): update it" in message


@pytest.mark.parametrize(
    "answer",
    [
        {"body": "{}"}, {"body": "[]"}, {"body": "null"}, {"body": "<html>"}, {"body": '{"ApiVersion": 1.41}'},
        {"body": '{"ApiVersion": "banana"}'}, {"body": '{"ApiVersion": "1.' + "9" * 5000 + '"}'},
        {"body": '{"message": "sick"}', "status": 500}, {"body": "no", "status": 403}, {"raw": b"SSH-2.0-x\r\n"}, {"raw": b""},
    ],
    ids=lambda answer: str(answer)[:40],
)  # fmt: skip
def test_what_is_no_daemon_is_no_traceback(answering: Answer, answer: dict[str, Any]) -> None:
    address = answering(**answer)
    message = refused(address)
    assert address in message and len(message) < 1000


def test_daemon_that_hangs_is_not_waited_for(answering: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "TIMEOUT", 0.3)
    assert "gave no answer" in refused(answering(silent=True))


@pytest.mark.parametrize("url", ["foo", "foo://x", "tcp://127.0.0.1:1", "unix:///", "unix:///etc/hostname", ""])
def test_address_that_leads_nowhere_is_named(bare: Path, url: str) -> None:
    assert "start Docker" in refused(url)


def test_daemon_over_ssh_says_what_works(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_context(bare, "far", described("far", "ssh://somebody@far.invalid"))
    assert "forward its socket" in refused("ssh://somebody@far.invalid")
    monkeypatch.setenv("DOCKER_HOST", "ssh://somebody@far.invalid")
    assert "forward its socket" in refused()
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert "forward its socket" in refused()


def test_incomplete_tls_settings_are_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(bare))
    assert "TLS settings are incomplete" in refused()


@pytest.mark.parametrize(
    "options",
    [
        {"pool": "x"}, {"pool": -1}, {"pool": True}, {"cpus": 0}, {"cpus": "two"}, {"cpus": float("nan")},
        {"idle": "60"}, {"idle": 0}, {"lifetime": "1h"}, {"lifetime": float("nan")}, {"pool_age": None}, {"pool_age": -1},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_none_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=next(iter(options))):
        Executor("docker", **options)


def test_an_environment_that_changes_meanwhile_disturbs_no_request(
    docker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests are made in threads of ours, while the program that uses this library may change its environment."""
    import urllib.request

    def changed() -> dict[str, str]:
        raise KeyError("changed while it was looked at")

    client = daemon.connect(docker_url)
    try:
        monkeypatch.setattr(urllib.request, "getproxies_environment", changed)
        monkeypatch.setattr("requests.utils.getproxies", changed)
        assert client.ping()
    finally:
        client.close()
