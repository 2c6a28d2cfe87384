"""Closed-loop load by wrk: rate and latencies of one request sent again and again."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.served.wire import Request

_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "us": %d, "p50": %f, "p99": %f, "refused": %d, "broken": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclasses.dataclass(frozen=True)
class Load:
    """What one run of wrk saw.

    Attributes:
        rate: Good answers a second.
        p50: Of all answers, in milliseconds.
        p99: Likewise.
        refused: Share of the answers that were errors.
        broken: Connections refused or cut, and answers that came too late.
    """

    rate: float
    p50: float
    p99: float
    refused: float
    broken: int


def require_wrk() -> None:
    """Leave with a message unless wrk is at hand."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing, which makes the load. Install it, for example: apt-get install wrk")


def press(port: int, path: str, request: Request, folder: Path, *, connections: int, seconds: int) -> Load:
    """Send `request` over so many connections at once, each anew as soon as it is answered.

    Args:
        port: On 127.0.0.1.
        path: Of the URL.
        request: What is posted.
        folder: For the script and the body.
        connections: At once, by one thread.
        seconds: How long.
    """
    body, script = folder / "body", folder / "press.lua"
    body.write_bytes(request.body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    script.write_text(_SCRIPT.format(body=body, headers=headers))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script)]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    seen = json.loads(line.removeprefix("RESULT "))
    good = seen["requests"] - seen["refused"]
    return Load(
        rate=good / seen["us"] * 1e6,
        p50=seen["p50"] / 1e3,
        p99=seen["p99"] / 1e3,
        refused=seen["refused"] / max(1, seen["requests"]),
        broken=seen["broken"],
    )
