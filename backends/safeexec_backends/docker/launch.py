"""Starts containers and gives them their program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import docker.errors

from safeexec import wire
from safeexec.errors import BackendUnavailable
from safeexec_backends.docker import config, program, reaper
from safeexec_backends.docker.container import DockerGuest, found_out
from safeexec_backends.docker.daemon import errors_mapped
from safeexec_backends.docker.direct import INSIDE, Listener
from safeexec_backends.docker.returning import ReturningGuest
from safeexec_backends.docker.stream import Attached

START_SECONDS = 60.0


@contextmanager
def _listening(want: config.Shape) -> Iterator[Listener | None]:
    """Where a container finds its host past the daemon, if it may: for as long as it starts. Raises BackendUnavailable."""
    if not want.direct:
        yield None
        return
    try:
        listener = Listener()
    except OSError as error:
        raise BackendUnavailable(f"no socket for a container can be made: {error}") from error
    try:
        yield listener
    finally:
        listener.close()


def start(
    client: Any,
    want: config.Shape,
    *,
    python: str,
    text: bytes,
    token: str,
    role: str,
    podman: bool,
    profile: str,
    volumes: tuple[str, ...],
    max_frame: int,
    remove: Callable[[str], None],
) -> tuple[DockerGuest, wire.Frame]:
    """Create and start a container, give it the program `text`, and wait for its first frame, which is returned too.

    Raises BackendUnavailable.
    """
    with _listening(want) as listener:
        api = client.api
        past_daemon = listener is not None
        options = config.host_config(want, podman, profile, volumes, listener.path if listener is not None else "")
        with errors_mapped("creating a container"):
            identity = api.create_container(
                want.image,
                entrypoint=program.command(python, INSIDE if past_daemon else ""),
                command=[],
                user=config.USER,
                working_dir=config.WORKDIR,
                environment=config.environment(want.cpus),
                hostname=config.HOSTNAME,
                network_disabled=bool(want.hosts),
                stdin_open=not past_daemon,
                tty=False,
                labels=reaper.labels(token, role),
                healthcheck={"test": ["NONE"]},
                host_config=api.create_host_config(**options),
                # Proxies of the host's own docker configuration, with what passwords are in their addresses.
                use_config_proxy=False,
            )["Id"]
        guest = None
        attached = None
        try:
            with errors_mapped("attaching to a container"):
                streams = {"stdin": int(not past_daemon), "stdout": 1, "stderr": 1, "stream": 1}
                attached = Attached(api.attach_socket(identity, streams))
            if not past_daemon:
                guest = DockerGuest(client, identity, attached, max_frame, remove)
            with errors_mapped("starting a container"):
                try:
                    api.start(identity)
                except docker.errors.APIError as error:
                    if "executable file" in str(error.explanation):
                        raise BackendUnavailable(
                            f"the image has no {python!r} in its PATH: name the interpreter by python="
                        ) from error
                    raise
            try:
                if listener is not None:
                    attached.setblocking(True)
                    direct = listener.accept(attached, START_SECONDS, want.returns)
                    if want.returns:
                        guest = ReturningGuest(client, identity, direct, max_frame, remove, config.room(want))
                    else:
                        guest = DockerGuest(client, identity, direct, max_frame, remove)
                    listener.close()
                assert guest is not None
                guest._write([program.framed(text)])
                frame = guest.next_frame(START_SECONDS)
            except TimeoutError:
                raise BackendUnavailable(f"the guest program did not start within {START_SECONDS:g} s") from None
            except (OSError, EOFError, wire.WireError) as error:
                death = str(found_out(client, identity, attached.tail))
                hint = (
                    f"; the image has no {python!r} in its PATH: name the interpreter by python="
                    if "exit code 127" in death
                    else ""
                )
                raise BackendUnavailable(f"the guest program did not start: {death}{hint}") from error
            if past_daemon:
                attached.close()
            return guest, frame
        except BaseException:
            if guest is not None:
                guest.close()
            else:
                remove(identity)
            if attached is not None:
                attached.close()
            raise
