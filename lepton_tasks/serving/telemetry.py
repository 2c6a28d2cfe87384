"""What a server says about itself: Prometheus metrics and the request log."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.serving.errors import status_of
from lepton_tasks.serving.request_log import RequestLog
from lepton_tasks.serving.routing import Live

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclasses.dataclass
class Call:
    """One request while it is answered; the handler fills in what it learns.

    Attributes:
        model: Name asked for.
        probe: Why the request is a made-up one; empty for a real one.
        live: What answers.
        samples: For the request log, one mapping a sample: size, mean, std, values, label, probability.
    """

    model: str
    probe: str
    live: Live | None = None
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Telemetry:
    """Counts and logs every prediction request.

    Args:
        log: Where the records go.
    """

    def __init__(self, log: RequestLog) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by = ("model", "version", "api")
        self._requests = Counter("lepton_requests", "Requests for predictions.", (*by, "status"), registry=registry)
        self._errors = Counter("lepton_errors", "Requests without a prediction.", (*by, "status"), registry=registry)
        self._seconds = Histogram("lepton_request_seconds", "Time to answer.", by, buckets=_BUCKETS, registry=registry)
        self._served = Gauge(
            "lepton_model_info", "1 for each version that answers.", ("model", "version", "digest"), registry=registry
        )
        dropped = Gauge("lepton_request_log_dropped", "Records the log had no room for.", registry=registry)
        dropped.set_function(lambda: log.dropped)
        self._log = log

    def serving(self, live: list[Live]) -> None:
        """Set what is served now."""
        self._served.clear()
        for item in live:
            self._served.labels(item.model, item.release.version, item.release.digest).set(1)

    @contextlib.contextmanager
    def watch(self, model: str, api: str, *, probe: str = "") -> Iterator[Call]:
        """Time a request and keep its outcome; errors pass through. `probe` says why a request is a made-up one."""
        call, started, status, reason = Call(model, probe), time.perf_counter(), 200, None
        try:
            yield call
        except Exception as error:
            status = status_of(error)
            reason = str(error) if isinstance(error, LeptonError) else type(error).__name__
            raise
        except asyncio.CancelledError:  # the server gave up on it while draining
            status = 499
            raise
        finally:
            self._finish(call, api, status, time.perf_counter() - started, reason)

    def _finish(self, call: Call, api: str, status: int, seconds: float, reason: str | None) -> None:
        # An unknown name is the caller's own text: as a label, or a folder, it would let anybody fill the disk.
        known = call.live is not None
        version = call.live.release.version if call.live else ""
        labels = (call.model if known else "", version, api)
        self._requests.labels(*labels, status).inc()
        self._seconds.labels(*labels).observe(seconds)
        if status != 200:
            self._errors.labels(*labels, status).inc()
        if known:
            shared = {
                "time": time.time(),
                "version": version,
                "api": api,
                "status": status,
                "seconds": round(seconds, 6),
                "error": reason,
                "probe": call.probe,
            }
            for sample in call.samples or [{}]:
                self._log.add(call.model, {**shared, **sample})
