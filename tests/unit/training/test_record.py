import logging

import pytest

from lepton_tasks.core.errors import ArtifactError, UnavailableError
from lepton_tasks.training.record import TrainingRecord

LOG = logging.getLogger("lepton.train")


class Server:
    """What the tracker would have sent; refuses everything while `away`."""

    def __init__(self):
        self.away, self.known, self.metrics_sent, self.files_sent, self.params_sent, self.status = (
            False,
            [],
            [],
            [],
            0,
            {},
        )

    def _answer(self):
        if self.away:
            raise UnavailableError("MLflow does not answer.")

    def start(self, experiment, run_name, tags, *, resume=None):
        self._answer()
        if resume is not None and resume not in self.known:
            raise ArtifactError("no such run.")
        if resume is None:
            self.known.append(f"run{len(self.known)}")
        return resume or self.known[-1], "7"

    def params(self, run_id, values):
        self._answer()
        self.params_sent += 1

    def metrics(self, run_id, values, step):
        self._answer()
        self.metrics_sent.append((run_id, step, values))

    def files(self, run_id, path, at=None):
        self._answer()
        self.files_sent.append((str(path), at))

    def end(self, run_id, status):
        self._answer()
        self.status[run_id] = status


def record(server, tmp_path):
    made = TrainingRecord(server, tmp_path / "mlflow.json", LOG)
    made.start("cats", "a-run", tags={}, params={"train.epochs": 3})
    return made


def row(epoch):
    return {"epoch": epoch, "train_loss": 1.0 / (epoch + 1), "seconds": 2.0}


def test_everything_arrives_in_order(tmp_path):
    server = Server()
    made = record(server, tmp_path)
    for epoch in range(3):
        made.epoch(row(epoch))
    made.files(tmp_path, "plots")
    made.finish()
    assert server.metrics_sent == [("run0", i, {"train_loss": 1.0 / (i + 1)}) for i in range(3)]
    assert server.files_sent == [(str(tmp_path), "plots")]
    assert server.status == {"run0": "FINISHED"}


def test_a_server_that_goes_away_is_told_of_once_and_gets_the_rest_at_the_end(tmp_path, caplog):
    server = Server()
    made = record(server, tmp_path)
    server.away = True
    for epoch in range(4):
        made.epoch(row(epoch))
    made._thread.submit(lambda: None).result()  # everything before it has been tried
    assert [r.getMessage() for r in caplog.records].count(caplog.records[0].getMessage()) == len(caplog.records) == 1
    server.away = False
    made.finish()
    assert [step for _, step, _ in server.metrics_sent] == [0, 1, 2, 3]
    assert server.status == {"run0": "FINISHED"}


def test_the_end_fails_if_the_server_stays_away_and_the_next_attempt_sends_the_rest(tmp_path):
    server = Server()
    first = record(server, tmp_path)
    first.epoch(row(0))
    first._thread.submit(lambda: None).result()
    server.away = True
    first.epoch(row(1))
    with pytest.raises(UnavailableError):
        first.finish()
    first.fail()  # as the stage does: it must not hide the error with another one
    server.away = False
    second = record(server, tmp_path)
    for epoch in (0, 1):
        second.epoch(row(epoch))
    second.finish()
    assert [(run, step) for run, step, _ in server.metrics_sent] == [("run0", 0), ("run0", 1)]
    assert server.params_sent == 1


def test_a_run_that_is_gone_is_begun_anew_with_everything(tmp_path):
    server = Server()
    first = record(server, tmp_path)
    first.epoch(row(0))
    first.fail()
    assert server.status == {"run0": "FAILED"}
    other = Server()
    other.known = ["another"]
    second = record(other, tmp_path)
    second.epoch(row(0))
    second.finish()
    assert [(run, step) for run, step, _ in other.metrics_sent] == [("run1", 0)]
    assert other.params_sent == 1
