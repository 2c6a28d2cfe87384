"""Telemetry of the server: Prometheus metrics and the request log."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest

from lepton_tasks.serving.errors import CLIENT_GONE, reason_of, status_of
from lepton_tasks.serving.inference.batching import Ticket, Timings
from lepton_tasks.serving.inference.request import Reply
from lepton_tasks.serving.observing.counting import Counter, Histogram
from lepton_tasks.serving.observing.request_log import RequestLog
from lepton_tasks.serving.versions.live import Live

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATER_SECONDS = 0.05
_SIZES = (1, 2, 4, 8, 16, 32)
_NO_SAMPLE: tuple[dict[str, Any]] = ({},)

_log = logging.getLogger("lepton.serving")


@dataclasses.dataclass(slots=True)
class Call:
    """One request in progress, filled in by the handler.

    Attributes:
        model: Requested name.
        probe: Reason for a synthetic request; empty for a real one.
        caller: Id of the API key; empty without keys.
        live: The serving version.
        samples: For the request log, one mapping per sample: size, mean, std, values, label, probability.
        ticket: Queue ticket.
        trace: Trace id; empty without one.
    """

    model: str
    probe: str
    caller: str = ""
    live: Live | None = None
    samples: Sequence[dict[str, Any]] = ()
    ticket: Ticket | None = None
    trace: str = ""


class Telemetry:
    """Count and log every prediction request.

    Args:
        log: Receives the records.
    """

    def __init__(self, log: RequestLog) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by = ("model", "version", "api")
        self._requests = Counter("lepton_requests", "Requests for predictions.", (*by, "status"))
        self._errors = Counter("lepton_errors", "Requests without a prediction.", (*by, "status"))
        self._seconds = Histogram("lepton_request_seconds", "Time to answer.", by, buckets=_BUCKETS)
        self._stages = Histogram(
            "lepton_stage_seconds",
            "Time of a request in the queue, and of its batch in each later stage.",
            ("model", "version", "stage"),
            buckets=(0.00001, 0.00005, 0.0001, *_BUCKETS),
        )
        self._batches = Histogram(
            "lepton_batch_requests", "Requests answered by one inference.", by[:2], buckets=_SIZES
        )
        for metric in (self._requests, self._errors, self._seconds, self._stages, self._batches):
            registry.register(metric)
        self._served = Gauge(
            "lepton_model_info", "1 for each version that answers.", ("model", "version", "digest"), registry=registry
        )
        self._share = Gauge("lepton_model_share", "Share of requests answered by a version.", by[:2], registry=registry)
        self._depth = Gauge("lepton_queue_depth", "Requests waiting for a worker.", by[:2], registry=registry)
        dropped = Gauge("lepton_request_log_dropped", "Records dropped because the log was full.", registry=registry)
        dropped.set_function(lambda: log.dropped)
        self._log = log
        self._refused: list[tuple[Call, str, Reply, float, float]] = []
        # Looking up a series by its labels takes longer than updating it.
        self._series = functools.lru_cache(maxsize=4096)(self._series_of)

    def serving(self, answering: Iterable[tuple[Live, float]]) -> None:
        """Set the serving versions, each with its share of its model's requests."""
        self._served.clear()
        self._share.clear()
        self._depth.clear()
        for item, share in answering:
            self._share.labels(item.model, item.release.version).set(share)
            self._served.labels(item.model, item.release.version, item.release.digest).set(1)
            depth = self._depth.labels(item.model, item.release.version)
            depth.set_function(item.batcher.depth)

    def observer(self, model: str, version: str) -> Callable[[Timings], None]:
        """Callback that records the batches of a version."""
        decode, run, encode = (self._stages.labels(model, version, stage) for stage in ("decode", "run", "encode"))
        size = self._batches.labels(model, version)

        def observe(timings: Timings) -> None:
            size(timings.jobs)
            decode(timings.decode)
            run(timings.run)
            encode(timings.encode)

        return observe

    @contextlib.contextmanager
    def watch(self, model: str, api: str, *, probe: str = "") -> Iterator[Call]:
        """Time a request and record its outcome; errors pass through. `probe`: reason for a synthetic request."""
        call, started, status, reason = Call(model, probe), time.perf_counter(), 200, None
        try:
            yield call
        except Exception as error:
            status = status_of(error)
            reason = reason_of(error)
            raise
        except asyncio.CancelledError:  # cancelled by the server while draining
            status = CLIENT_GONE
            raise
        finally:
            self.finish(call, api, status, time.perf_counter() - started, reason)

    def refused(self, call: Call, api: str, reply: Reply, seconds: float, now: float) -> None:
        """Queue a request rejected at `now` (`time.monotonic`), to be counted and logged in bulk."""
        self._refused.append((call, api, reply, seconds, now))
        if len(self._refused) == 1:
            asyncio.get_running_loop().call_later(_LATER_SECONDS, self.settle)

    def exposition(self) -> bytes:
        """All metrics in Prometheus text format."""
        self.settle()
        return generate_latest(self.registry)

    def settle(self) -> None:
        """Count and log the queued rejected requests."""
        refused, self._refused = self._refused, []
        epoch = time.time() - time.monotonic()
        for call, api, reply, seconds, now in refused:
            self.finish(call, api, reply.status, seconds, reply.reason, at=epoch + now)

    def finish(
        self, call: Call, api: str, status: int, seconds: float, reason: str | None = None, *, at: float | None = None
    ) -> None:
        """Count and log a request that took `seconds`; `at`: seconds since the epoch, default now."""
        # An unknown name is untrusted input: as a label or folder, it would let any caller fill the disk.
        if call.live is None:
            count, observe, _ = self._series("", "", api, status)
            count()
            observe(seconds)
            return
        version = call.live.release.version
        count, observe, queue = self._series(call.model, version, api, status)
        count()
        observe(seconds)
        if call.ticket is not None and call.ticket.taken:
            queue(call.ticket.taken - call.ticket.queued)
        if not call.probe:
            call.live.tally.request(status, seconds)
        shared = {
            "time": time.time() if at is None else at,
            "version": version,
            "api": api,
            "status": status,
            "seconds": round(seconds, 6),
            "error": reason,
            "probe": call.probe,
        }
        if call.caller:
            shared["caller"] = call.caller
        if call.trace:
            shared["trace"] = call.trace
        for sample in call.samples or _NO_SAMPLE:
            self._log.add(call.model, shared | sample)

    def unforeseen(self, call: Call, error: BaseException) -> None:
        """Log an unexpected error with its traceback."""
        about = {"trace": call.trace}
        if call.live is not None:
            about |= {"model": call.model, "version": call.live.release.version}
        _log.error("a request for %s failed", about.get("model", "a model"), exc_info=error, extra=about)

    def _series_of(self, model: str, version: str, api: str, status: int) -> tuple[Callable[..., None], ...]:
        by = model, version, api, str(status)
        requests = self._requests.labels(*by)
        errors = self._errors.labels(*by) if status != 200 else None

        def count_both() -> None:
            requests()
            if errors is not None:
                errors()

        seconds = self._seconds.labels(model, version, api)
        return (
            requests if errors is None else count_both,
            seconds,
            self._stages.labels(model, version, "queue") if model else _nothing,
        )


def _nothing(_: float) -> None:
    """Ignore the queue time of requests without a model."""
