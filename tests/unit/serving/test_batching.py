import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_packages import make_package, picture

from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.serving.errors import DeadlineError
from lepton_tasks.serving.inference.batching import Batcher, answer_all
from lepton_tasks.serving.inference.calibration import best_batch
from lepton_tasks.serving.inference.samples import SampleJob
from lepton_tasks.serving.package import load_package


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    make_package(folder)
    return load_package(folder)


@given(st.lists(st.integers(0, 255) | st.just(b"broken") | st.just(b""), min_size=1, max_size=12))
def test_each_job_of_a_batch_gets_its_own_answer_or_error(package, wanted):
    jobs = [SampleJob(value if isinstance(value, bytes) else picture(value)) for value in wanted]
    for value, answer in zip(wanted, answer_all(package, jobs)[0], strict=True):
        if isinstance(value, bytes):
            assert isinstance(answer, DataError)
        else:
            assert answer["probabilities"]["light"] == pytest.approx(value / 510, abs=1e-6)


class Blocking:
    """A job that holds its worker until it is let go."""

    def __init__(self, gate):
        self.gate, self.started = gate, threading.Event()

    def decode(self, package):
        self.started.set()
        self.gate.wait(10)
        return [np.zeros((1, 8, 8, 1), np.uint8)]

    def answer(self, package, outputs):
        return outputs[0]["probabilities"].shape


class Recording:
    def __init__(self, package):
        self.sizes, self.threads = [], set()
        self._package = package

    def __getattr__(self, name):
        return getattr(self._package, name)

    def run(self, batch):
        self.threads.add(threading.current_thread())
        self.sizes.append(len(batch))
        return self._package.run(batch)


def test_what_queues_up_while_a_worker_is_busy_is_answered_as_one_batch(package):
    async def scenario():
        gate, seen = threading.Event(), Recording(package)
        batcher = Batcher(seen, max_batch=4, workers=1)
        futures = [batcher.submit_future(Blocking(gate)) for _ in range(10)]
        gate.set()
        assert await asyncio.gather(*futures) == [(1, 2)] * 10
        batcher.close()
        await asyncio.to_thread(batcher.join)
        return seen.sizes

    sizes = asyncio.run(scenario())
    assert sum(sizes) == 10
    assert max(sizes) == 4
    assert len(sizes) <= 4  # the first may go alone


def test_close_answers_what_is_queued(package):
    async def scenario():
        gate = threading.Event()
        batcher = Batcher(package, max_batch=2, workers=2)
        futures = [batcher.submit_future(Blocking(gate)) for _ in range(20)]
        batcher.close()
        gate.set()
        answers = await asyncio.gather(*futures)
        await asyncio.to_thread(batcher.join)
        return answers

    assert len(asyncio.run(scenario())) == 20


def test_a_full_backlog_refuses(package):
    async def scenario():
        gate = threading.Event()
        batcher = Batcher(package, max_batch=1, workers=1, backlog=3)
        busy = batcher.submit_future(first := Blocking(gate))
        await asyncio.to_thread(first.started.wait, 10)
        waiting = [batcher.submit_future(Blocking(gate)) for _ in range(3)]
        with pytest.raises(UnavailableError, match="3 requests are waiting"):
            batcher.submit_future(Blocking(gate))
        gate.set()
        await asyncio.gather(busy, *waiting)
        batcher.close()
        await asyncio.to_thread(batcher.join)

    asyncio.run(scenario())


@pytest.mark.parametrize(("waiting", "sizes"), [(15, [1] * 15), (32, [3, 3, 3, 2]), (80, [8, 8, 7, 7, 6])])
def test_a_batch_is_larger_while_many_wait(package, waiting, sizes):
    async def scenario():
        gate, seen = threading.Event(), []
        batcher = Batcher(
            package, max_batch=1, burst_batch=8, workers=1, observe=lambda timings: seen.append(timings.jobs)
        )
        futures = [batcher.submit_future(first := Blocking(gate))]
        await asyncio.to_thread(first.started.wait, 10)
        futures += [batcher.submit_future(Blocking(gate)) for _ in range(waiting)]
        gate.set()
        await asyncio.gather(*futures)
        batcher.close()
        await asyncio.to_thread(batcher.join)
        return seen

    found = asyncio.run(scenario())
    assert (found[0], found[1 : 1 + len(sizes)], sum(found)) == (1, sizes, 1 + waiting)


class Told(Blocking):
    """A job that holds its worker, and answers with its own number."""

    def __init__(self, gate, number):
        super().__init__(gate)
        self.number = number

    def answer(self, package, outputs):
        return self.number


def test_one_that_is_cancelled_while_it_is_computed_leaves_the_others_their_answers(package):
    async def scenario():
        first, second, answers = threading.Event(), threading.Event(), []
        batcher = Batcher(package, max_batch=8, workers=1)
        batcher.submit(busy := Told(first, 0), answers.append)
        await asyncio.to_thread(busy.started.wait, 10)
        batcher.submit(Told(second, 1), answers.append, seconds=-1)  # too late: not computed at all
        gone = batcher.submit(Told(second, 2), answers.append)
        batcher.submit(last := Told(second, 3), answers.append)
        first.set()
        await asyncio.to_thread(gone.job.started.wait, 10)
        gone.cancelled = True
        second.set()
        await asyncio.to_thread(last.started.wait, 10)
        batcher.close()
        await asyncio.to_thread(batcher.join)
        await asyncio.sleep(0)
        return answers

    told = asyncio.run(scenario())
    assert told[0] == 0
    assert isinstance(told[1], DeadlineError)
    assert told[2:] == [3]


def test_an_answer_that_cannot_be_given_keeps_none_from_the_others(package, caplog):
    async def scenario():
        answers = []
        batcher = Batcher(package, max_batch=8, workers=1, inline_bytes=1, inline_when_busy=True)
        batcher.submit(SampleJob(picture(0)), lambda _: 1 / 0, size=1)
        batcher.submit(SampleJob(picture(0)), answers.append, size=1)
        await asyncio.sleep(0.01)
        batcher.close()
        return answers

    assert len(asyncio.run(scenario())) == 1
    assert "delivering a result failed" in caplog.text


@pytest.mark.parametrize("busy", [True, False])
def test_small_jobs_are_answered_in_the_event_loop(package, busy):
    async def scenario():
        seen, answers = Recording(package), []
        batcher = Batcher(seen, max_batch=4, workers=1, inline_bytes=100, inline_when_busy=busy)
        for value in range(6):
            batcher.submit(SampleJob(picture(value)), answers.append, size=100)
        batcher.submit(SampleJob(picture(0)), answers.append, size=100, seconds=-1)
        gone = batcher.submit(SampleJob(picture(0)), answers.append, size=100)
        gone.cancelled = True
        assert not answers  # not while the caller is at it
        while len(answers) < 7:
            await asyncio.sleep(0.001)
        batcher.close()
        await asyncio.to_thread(batcher.join)
        return seen, answers, batcher

    seen, answers, batcher = asyncio.run(scenario())
    errors = [answer for answer in answers if isinstance(answer, DeadlineError)]
    light = sorted(answer["probabilities"]["light"] for answer in answers if isinstance(answer, dict))
    assert len(errors) == 1
    assert light == pytest.approx([value / 510 for value in range(6)], abs=1e-6)
    assert sum(seen.sizes) == 6
    assert (seen.threads == {threading.main_thread()}) is busy  # else only the first, which met nobody
    assert batcher.depth() == batcher._open == 0


class Timed:
    """A package whose inference takes a known time; `run` advances the clock instead of waiting."""

    def __init__(self, clock, fixed, each):
        self.clock, self.fixed, self.each = clock, fixed, each

    def run(self, batch):
        self.clock.now += self.fixed + self.each * len(batch)


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now

    thread_time = perf_counter


@pytest.mark.parametrize(
    ("fixed", "each", "size", "deep"),
    [
        (0.0, 1e-3, 1, 8),
        (0.0, 1e-4, 8, 8),
        (1e-3, 0.0, 32, 32),
        (1e-3, 2.5e-4, 16, 16),
        (0.05, 0.02, 4, 4),
        (0.0, 5e-3, 1, 4),
        (0.2, 0.0, 1, 1),
    ],
    ids=[
        "no gain from batches",
        "none, but quick",
        "all of it overhead",
        "some",
        "some, but slow",
        "none, and slow",
        "too slow",
    ],
)
def test_the_batch_grows_only_as_long_as_it_pays(monkeypatch, fixed, each, size, deep):
    clock = Clock()
    monkeypatch.setattr("lepton_tasks.serving.inference.calibration.time", clock)
    assert best_batch(Timed(clock, fixed, each), np.zeros((8, 8, 1))) == (
        size,
        deep,
        pytest.approx(size / (fixed + each * size)),
    )
