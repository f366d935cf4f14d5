"""A loopback Modal: the calls of its control plane and command router that the SDK makes for a sandbox. Started by ``Loopback``."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server as GrpcServer
from modal_proto import api_pb2
from modal_proto import task_command_router_pb2 as router_pb2

from safeexec.serve.http import Request, Response, Server, json_response
from tests.remote.faults import Rule
from tests.remote.machines import LocalMachine, LocalProcess, image_with

EXPIRES = 3600
CONTROL = "/modal.client.ModalClient/"
ROUTER = "/modal.task_command_router.TaskCommandRouter/"


def jwt() -> str:
    def part(data: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'exp': time.time() + EXPIRES})}.x"


class Exec:
    """One process: its output is kept, so that a reader may come back with an offset, and its input is taken once."""

    def __init__(self, process: LocalProcess) -> None:
        self.process = process
        self.output = {1: bytearray(), 2: bytearray()}
        self.taken = 0
        self.code: int | None = None
        self.loop = asyncio.get_running_loop()
        self.changed = asyncio.Condition()
        self.writing = asyncio.Lock()
        threading.Thread(target=self._pump, daemon=True).start()

    def _pump(self) -> None:
        for kind, value in self.process.events():
            asyncio.run_coroutine_threadsafe(self._take(kind, value), self.loop).result()

    async def _take(self, kind: str, value: Any) -> None:
        async with self.changed:
            if kind == "exit":
                self.code = value
            else:
                self.output[1 if kind == "stdout" else 2] += value
            self.changed.notify_all()

    async def write(self, offset: int, data: bytes) -> None:
        async with self.writing:
            fresh = data[max(0, self.taken - offset) :]
            self.taken += len(fresh)
            try:
                await asyncio.to_thread(self.process.write, fresh)
            except (OSError, ValueError):
                raise GRPCError(Status.NOT_FOUND, "the process takes no more input") from None


class Sandbox:
    def __init__(self, definition: Any, machine: LocalMachine) -> None:
        self.id = "sb-" + uuid.uuid4().hex
        self.task = "ta-" + uuid.uuid4().hex + "V"
        self.definition = definition
        self.machine = machine
        self.ends = time.time() + (definition.timeout_secs or 300)
        self.execs: dict[str, Exec] = {}


class Modal:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.sandboxes: dict[str, Sandbox] = {}
        self.made: dict[str, Sandbox] = {}
        self.images: list[Any] = []
        self.programs: dict[str, str] = {}
        self.folder = tempfile.TemporaryDirectory()
        self.url = ""
        self.rules: list[Rule] = []
        self.record: list[dict[str, Any]] = []

    # -- control plane -----------------------------------------------------------------------------------------------

    async def ClientHello(self, request: Any, metadata: Any) -> Any:
        return api_pb2.ClientHelloResponse()

    async def AuthTokenGet(self, request: Any, metadata: Any) -> Any:
        return api_pb2.AuthTokenGetResponse(token=jwt())

    async def EnvironmentGetOrCreate(self, request: Any, metadata: Any) -> Any:
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06")
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-1", metadata=api_pb2.EnvironmentMetadata(name="main", settings=settings)
        )

    async def AppGetOrCreate(self, request: Any, metadata: Any) -> Any:
        return api_pb2.AppGetOrCreateResponse(app_id="ap-1")

    async def ImageGetOrCreate(self, request: Any, metadata: Any) -> Any:
        commands = list(request.image.dockerfile_commands)
        self.images.append(commands)
        image_id = f"im-{len(self.programs)}"
        result = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)
        self.programs[image_id] = ""
        for command in commands:
            _, found, words = command.partition("pip install ")
            if found and "--upgrade pip" not in command:
                folder = Path(self.folder.name) / image_id
                try:
                    self.programs[image_id] = await asyncio.to_thread(
                        image_with, shlex.split(words), self.settings["env"], folder
                    )
                except subprocess.CalledProcessError as error:
                    result.status = api_pb2.GenericResult.GENERIC_STATUS_FAILURE
                    result.exception = error.stderr.decode()[-500:]
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=result,
            metadata=api_pb2.ImageMetadata(image_builder_version="2025.06"),
        )

    async def SandboxCreateV2(self, request: Any, metadata: Any) -> Any:
        identity = metadata.get("x-idempotency-key", uuid.uuid4().hex)
        sandbox = self.made.get(identity)
        if sandbox is None:
            sandbox = self.made[identity] = Sandbox(request.definition, self._machine(request.definition))
            self.sandboxes[sandbox.id] = sandbox
        return api_pb2.SandboxCreateV2Response(
            sandbox_id=sandbox.id,
            task_id=sandbox.task,
            command_router_access=api_pb2.CommandRouterAccess(url=self.url, jwt=jwt()),
            sandbox_token="token",
        )

    def _machine(self, definition: Any) -> LocalMachine:
        return LocalMachine(None, self.settings["env"], self.programs.get(definition.image_id, ""))

    async def SandboxGetCommandRouterAccess(self, request: Any, metadata: Any) -> Any:
        return api_pb2.SandboxGetCommandRouterAccessResponse(url=self.url, jwt=jwt())

    async def SandboxTerminateV2(self, request: Any, metadata: Any) -> Any:
        if request.sandbox_id not in {s.id for s in self.made.values()}:
            raise GRPCError(Status.NOT_FOUND, "no such sandbox")
        await self.end(request.sandbox_id)
        return api_pb2.SandboxTerminateResponse()

    async def SandboxWaitV2(self, request: Any, metadata: Any) -> Any:
        result = api_pb2.GenericResult()
        if request.sandbox_id not in self.sandboxes:
            result.status = api_pb2.GenericResult.GENERIC_STATUS_TERMINATED
        return api_pb2.SandboxWaitResponse(result=result)

    async def end(self, sandbox_id: str) -> None:
        sandbox = self.sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            await asyncio.to_thread(sandbox.machine.close)

    # -- command router ----------------------------------------------------------------------------------------------

    def _task(self, task_id: str) -> Sandbox:
        for sandbox in self.sandboxes.values():
            if sandbox.task == task_id:
                return sandbox
        raise GRPCError(Status.NOT_FOUND, "the task has ended")

    def _exec(self, request: Any) -> Exec:
        found = self._task(request.task_id).execs.get(request.exec_id)
        if found is None:
            raise GRPCError(Status.NOT_FOUND, "no such process")
        return found

    async def TaskExecStart(self, request: Any, metadata: Any) -> Any:
        sandbox = self._task(request.task_id)
        if request.exec_id not in sandbox.execs:
            try:
                process = sandbox.machine.start(list(request.command_args), {}, request.workdir or None)
            except OSError as error:
                raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
            assert isinstance(process, LocalProcess)
            sandbox.execs[request.exec_id] = Exec(process)
        return router_pb2.TaskExecStartResponse()

    async def TaskExecStdinWrite(self, request: Any, metadata: Any) -> Any:
        await self._exec(request).write(request.offset, request.data)
        return router_pb2.TaskExecStdinWriteResponse()

    async def TaskExecStdioRead(self, request: Any, metadata: Any) -> Any:
        running = self._exec(request)
        fd = 1 if request.file_descriptor == router_pb2.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT else 2
        at = request.offset
        while True:
            async with running.changed:
                while len(running.output[fd]) <= at and running.code is None:
                    await running.changed.wait()
                data = bytes(running.output[fd][at : at + 65536])
            if not data:
                self._task(request.task_id)  # a sandbox that was ended does not end its streams well
                return
            at += len(data)
            yield router_pb2.TaskExecStdioReadResponse(data=data)

    async def TaskExecWait(self, request: Any, metadata: Any) -> Any:
        running = self._exec(request)
        async with running.changed:
            await running.changed.wait_for(lambda: running.code is not None)
        return router_pb2.TaskExecWaitResponse(code=abs(running.code or 0))

    # -- serving -----------------------------------------------------------------------------------------------------

    def _check(self, name: str, metadata: Any) -> None:
        if name in ("TaskExecStart", "TaskExecStdinWrite", "TaskExecStdioRead", "TaskExecWait"):
            if not metadata.get("authorization", "").startswith("Bearer "):
                raise GRPCError(Status.UNAUTHENTICATED, "no token")
        elif (metadata.get("x-modal-token-id"), metadata.get("x-modal-token-secret")) != tuple(self.settings["token"]):
            raise GRPCError(Status.UNAUTHENTICATED, "the token is wrong")

    def _rule(self, name: str, request: Any, metadata: Any) -> Rule | None:
        entry = {
            "call": name,
            "headers": {key: str(value) for key, value in metadata.items()},
            "body": request.SerializeToString().decode("latin-1"),
        }
        self.record.append(entry)
        for rule in self.rules:
            if rule.times > 0 and rule.match in name:
                if rule.skip > 0:
                    rule.skip -= 1
                    return None
                rule.times -= 1
                return rule
        return None

    def handler(self, name: str) -> Callable[..., Any]:
        method = getattr(self, name)

        async def unary(stream: Any) -> None:
            request = await stream.recv_message()
            self._check(name, stream.metadata)
            rule = self._rule(name, request, stream.metadata)
            if rule is not None and rule.action == "delay":
                await asyncio.sleep(rule.seconds)
            elif rule is not None and rule.action == "hang":
                await asyncio.sleep(rule.seconds)
                raise GRPCError(Status.UNAVAILABLE, "injected")
            elif rule is not None and rule.action != "lose":
                raise GRPCError(Status[str(rule.action)], "injected")
            answer = await method(request, stream.metadata)
            if rule is not None and rule.action == "lose":
                raise GRPCError(Status.UNAVAILABLE, "injected after the call")
            await stream.send_message(answer)

        async def streaming(stream: Any) -> None:
            request = await stream.recv_message()
            self._check(name, stream.metadata)
            rule = self._rule(name, request, stream.metadata)
            if rule is not None and rule.action != "truncate":
                raise GRPCError(Status[str(rule.action)], "injected")
            number = 0
            async for answer in method(request, stream.metadata):
                if rule is not None and number >= rule.pieces:
                    raise GRPCError(Status.UNAVAILABLE, "injected in the stream")
                number += 1
                await stream.send_message(answer)

        return streaming if name == "TaskExecStdioRead" else unary

    def __mapping__(self) -> dict[str, Handler]:
        table: dict[str, Handler] = {}
        for service, proto, names in (
            (CONTROL, api_pb2, CONTROL_CALLS),
            (ROUTER, router_pb2, ("TaskExecStart", "TaskExecStdinWrite", "TaskExecStdioRead", "TaskExecWait")),
        ):
            descriptor = next(iter(proto.DESCRIPTOR.services_by_name.values()))
            for name in names:
                method = descriptor.methods_by_name[name]
                kind = Cardinality.UNARY_STREAM if method.server_streaming else Cardinality.UNARY_UNARY
                types = [
                    Empty if t.name == "Empty" else getattr(proto, t.name)
                    for t in (method.input_type, method.output_type)
                ]
                table[service + name] = Handler(self.handler(name), kind, *types)
        return table

    def control(self, request: Request) -> Response:
        if request.path == "/_faults":
            self.rules = [Rule(**rule) for rule in request.json()]
            self.record.clear()
            self.images.clear()
            return Response(204)
        if request.path == "/_record":
            return json_response(list(self.record))
        return json_response(
            [
                {
                    "id": s.id,
                    "timeout": s.definition.timeout_secs,
                    "memory": s.definition.resources.memory_mb_max,
                    "network": s.definition.network_access.network_access_type,
                    "images": self.images,
                }
                for s in list(self.sandboxes.values())
            ]
        )


CONTROL_CALLS = (
    "ClientHello",
    "AuthTokenGet",
    "EnvironmentGetOrCreate",
    "AppGetOrCreate",
    "ImageGetOrCreate",
    "SandboxCreateV2",
    "SandboxGetCommandRouterAccess",
    "SandboxTerminateV2",
    "SandboxWaitV2",
)


async def main() -> None:
    modal = Modal(json.loads(sys.stdin.readline()))
    server = GrpcServer([modal])
    await server.start("127.0.0.1", 0)
    assert server._server is not None
    modal.url = f"http://127.0.0.1:{server._server.sockets[0].getsockname()[1]}"
    control = Server(modal.control)
    print(modal.url, control.url, flush=True)

    async def reap() -> None:
        while True:
            await asyncio.sleep(0.2)
            for sandbox in list(modal.sandboxes.values()):
                if sandbox.ends < time.time():
                    await modal.end(sandbox.id)

    reaper = asyncio.create_task(reap())
    await asyncio.to_thread(sys.stdin.read)
    reaper.cancel()
    control.close()
    for sandbox_id in list(modal.sandboxes):
        await modal.end(sandbox_id)
    server.close()
    modal.folder.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
