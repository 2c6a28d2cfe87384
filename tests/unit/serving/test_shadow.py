import asyncio
import threading
import time

import numpy as np
import pytest
from tiny_packages import make_package, picture

from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.inference.samples import PredictJob, SampleJob
from lepton_tasks.serving.package import load_package
from lepton_tasks.serving.versions.controller import Controller
from lepton_tasks.serving.versions.routing import ModelTable
from lepton_tasks.serving.versions.shadow import Shadow, ShadowFigures, compare_outputs


@pytest.fixture
def packages(tmp_path):
    return [(tmp_path / str(i), make_package(tmp_path / str(i), offset=i / 10)) for i in range(4)]


def waited(figures, condition):
    deadline = time.monotonic() + 10
    while not condition(figures()):
        assert time.monotonic() < deadline, figures()
        time.sleep(0.005)
    return figures()


def test_answers_are_compared_by_label_and_by_number():
    a = {"probabilities": np.float32([[0.9, 0.1], [0.4, 0.6]]), "attention": np.float32([[1.0], [1.0]])}
    b = {"probabilities": np.float32([[0.8, 0.2], [0.6, 0.4]]), "attention": np.float32([[1.0], [1.0]])}
    assert compare_outputs(a, b) == (2, 1, pytest.approx((0.1 + 0.2) / 2))
    assert compare_outputs({"value": np.float32([[100], [1]])}, {"value": np.float32([[100.5], [1.5]])}) == (2, 1, 1.0)
    assert compare_outputs({"items": np.array([[1, 2]])}, {"items": np.array([[1, 3]])}) == (1, 0, 0.0)
    assert compare_outputs({"probabilities": np.ones((1, 2), "f4")}, {"probabilities": np.ones((1, 3), "f4")})[:2] == (
        1,
        0,
    )


def test_a_shadow_compares_copies_and_leaves_the_answered_jobs_alone(packages):
    shadow = Shadow(load_package(packages[0][0]), load_package(packages[3][0]), 1.0)
    jobs = [PredictJob(picture(value), model="tiny", version="0", most=4) for value in (0, 50, 100, 150, 200)]
    shadow.offer(jobs)
    found = waited(shadow.figures, lambda figures: figures.rows == 5)
    shadow.close()
    # Version 0 says light from 255 on, version 3 from 102 on.
    assert (found.agreed, found.errors, found.dropped) == (3, 0, 0)
    assert found.to_dict()["mean_absolute_difference"] == pytest.approx(0.3, abs=1e-5)
    assert found.to_dict()["time_ratio"] > 0
    assert all(job.sample_records == [] for job in jobs)
    assert found.plus(found).rows == 10
    assert ShadowFigures.from_dict({**vars(found), "seconds": list(found.seconds)}) == found


def test_what_only_the_challenger_cannot_answer_counts_against_it(packages):
    challenger = load_package(packages[1][0])
    challenger.run = lambda _: 1 / 0
    shadow = Shadow(load_package(packages[0][0]), challenger, 1.0)
    shadow.offer([SampleJob(picture(0)), SampleJob(b"no picture")])
    found = waited(shadow.figures, lambda figures: figures.errors)
    shadow.close()
    assert (found.rows, found.errors) == (0, 1)


def test_a_busy_shadow_drops_and_counts_and_never_holds_anybody_up(packages):
    champion, gate = load_package(packages[0][0]), threading.Event()
    run = champion.run
    champion.run = lambda inputs: (gate.wait(10), run(inputs))[1]
    shadow = Shadow(champion, load_package(packages[1][0]), 1.0)
    began = time.monotonic()
    for _ in range(50):
        shadow.offer([SampleJob(picture(0))] * 10)
    assert time.monotonic() - began < 1
    gate.set()
    found = waited(shadow.figures, lambda figures: figures.rows >= 64)
    assert found.rows + found.dropped == 500
    shadow.close()


def test_a_table_casts_a_shadow_and_says_how_it_does(tmp_path, packages):
    async def scenario():
        table = ModelTable(tmp_path, workers=1)
        for i, rollout in ((0, None), (3, Rollout(kind="shadow", share=100))):
            await table.deploy("tiny", packages[i][0], version=str(i), digest=packages[i][1], rollout=rollout)
        answers = await asyncio.gather(
            *(table.route("tiny").batcher.submit_future(SampleJob(picture(0))) for _ in range(20))
        )
        assert {answer["label"] for answer in answers} == {"dark"}
        async with asyncio.timeout(10):
            while table.shadow("tiny").rows < 20:
                await asyncio.sleep(0.01)
        await Controller(table).tick()
        progress = table.about("tiny")["challenger"]["progress"]
        assert (progress["rows"], progress["agreement"]) == (20, 1.0)
        assert "100.0% of 20 answers agree, mean difference 0.3" in progress["reason"]
        await table.promote("tiny")
        assert table.get("tiny").batcher.mirror is None
        assert table.shadow("tiny").rows == 0
        await table.close()

    asyncio.run(scenario())
    assert '"agreement":1.0' in (tmp_path / "deployments.jsonl").read_text()
