"""Sequential load: one connection, one request at a time, each timed."""

from __future__ import annotations

import gc
import socket
import time

import numpy as np

from benchmarks.served.wire import Request
from benchmarks.served.wrk import Load

_WARM_UP = 100
_HEADER_END, _LENGTH = b"\r\n\r\n", b"content-length:"


def sequential(port: int, path: str, request: Request, *, seconds: float) -> Load:
    """Send `request` again as soon as it is answered; percentiles are those of the measured response times.

    wrk reports others: after a pause it adds the requests that a constant rate would have sent meanwhile, so at one
    connection a few pauses of the machine make up its p99.

    Args:
        port: On 127.0.0.1.
        path: Of the URL.
        request: What is posted.
        seconds: Duration, after a warm-up of 100 requests.

    Raises:
        RuntimeError: the connection is closed, or a response has no content-length.
    """
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{port}", f"content-length: {len(request.body)}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    message = "\r\n".join(lines).encode() + _HEADER_END + request.body
    times: list[int] = []
    refused = 0
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_WARM_UP):
            _exchange(connection, message)
        gc.disable()
        try:
            now = time.perf_counter_ns()
            until = now + int(seconds * 1e9)
            while now < until:
                began = time.perf_counter_ns()
                refused += not _exchange(connection, message)
                now = time.perf_counter_ns()
                times.append(now - began)
        finally:
            gc.enable()
    p50, p99 = np.percentile(times, [50, 99]) / 1e6
    return Load(
        rate=(len(times) - refused) / seconds, p50=float(p50), p99=float(p99), refused=refused / len(times), broken=0
    )


def _exchange(connection: socket.socket, message: bytes) -> bool:
    """Send a request and read the whole response; returns whether its status is 200."""
    connection.sendall(message)
    answer = connection.recv(65_536)
    while (end := answer.find(_HEADER_END)) < 0:
        answer += _more(connection, answer)
    _, found, rest = answer[:end].lower().partition(_LENGTH)
    if not found:
        raise RuntimeError(f"no content-length: {answer[:end]!r}")
    left = end + len(_HEADER_END) + int(rest.split(b"\r\n", 1)[0]) - len(answer)
    while left > 0:
        left -= len(_more(connection, answer))
    return answer.startswith(b"HTTP/1.1 200")


def _more(connection: socket.socket, answer: bytes) -> bytes:
    part = connection.recv(65_536)
    if not part:
        raise RuntimeError(f"the connection was closed after {answer[:200]!r}")
    return part
