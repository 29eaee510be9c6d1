"""A gateway without Ray Serve: requests as an ASGI server hands them over, and replicas in this process."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plain_replica import PlainReplica
from ray.exceptions import RayActorError
from starlette.requests import Request

from taft_ray.serving.deployments import Gateway
from taft_ray.serving.options import ServingOptions


class _Method:
    """As a method of a deployment's handle: its call is awaited."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *arguments: Any) -> Awaitable[Any]:
        async def answer() -> Any:
            return self._call(*arguments)

        return answer()


class InProcess:
    """As a handle to replicas that take turns; those in ``dead`` answer as killed ones do."""

    def __init__(self, *replicas: PlainReplica) -> None:
        self.replicas, self.dead, self.asked = replicas, set[int](), 0
        self.predict = _Method(lambda name, pictures: self._turn().answer(*pictures, name=name))
        self.told = _Method(lambda name: self._turn().replica.told(name))

    def _turn(self) -> PlainReplica:
        number = self.asked % len(self.replicas)
        self.asked += 1
        if number in self.dead:
            raise RayActorError
        return self.replicas[number]


@dataclass
class Response:
    status: int
    headers: Mapping[str, str]
    json: Any


def requested(
    handle: InProcess, method: str, path: str, body: bytes = b"", *, caller: str = "127.0.0.1", chunk: int = 1 << 16,
    declared: int | None = None, headers: Mapping[str, str] | None = None, **options: Any,
) -> Response:  # fmt: skip
    """A request's response. chunk: bytes that come at a time. declared: what Content-Length says, where that is no truth."""
    names = [source.name for source in handle.replicas[0].sources]
    gateway = Gateway(handle, names, ServingOptions(**options).to_json())
    sent = {"content-length": str(len(body) if declared is None else declared), **(headers or {})}
    scope = {
        "type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "client": (caller, 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
    }  # fmt: skip
    chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": chunks[read - 1], "more_body": read < len(chunks)}

    response = asyncio.run(gateway(Request(scope, receive)))
    return Response(response.status_code, response.headers, json.loads(bytes(response.body)))


def multipart(*contents: bytes, boundary: str = "xYzZY") -> tuple[bytes, dict[str, str]]:
    """A body of these parts, and its header."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="p{number}"; filename="p"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for number, content in enumerate(contents)
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}
