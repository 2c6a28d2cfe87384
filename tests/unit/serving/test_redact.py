import json
import logging
import threading

import pyarrow.parquet as pq
import pytest

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.redaction import Redaction as Rule
from lepton_tasks.serving.observing import redact
from lepton_tasks.serving.observing.redact import REDACT_FILE, SECRET_FILE, Redaction
from lepton_tasks.serving.observing.request_log import RequestLog, read_requests

SECRETS = ("Ada Lovelace", "ada@example.org", "4242-4242", "a long comment about Ada", "99317")
RULES = {
    "adult*": {"drop": ["name", "card*"], "hash": ["email", "wage"], "truncate": {"comment": 6}, "answer": "hash"},
    "*": {"drop": ["never"]},
}


def record(**changes):
    values = {
        "name": SECRETS[0],
        "email": SECRETS[1],
        "card_number": SECRETS[2],
        "comment": SECRETS[3],
        "wage": int(SECRETS[4]),
        "age": 36,
    }
    return {"time": 1.0, "label": "rich", "mean": 99317.0, "std": 3.5, "values": values, "error": None} | changes


@pytest.fixture
def rules(tmp_path):
    def write(value):
        (tmp_path / REDACT_FILE).write_text(value if isinstance(value, str) else json.dumps(value))
        return Redaction(tmp_path)

    return write


def told(one):
    return {key: value for key, value in one.items() if value is not None}


def written(home, redaction, records, model="adult"):
    log = RequestLog(home / "requests", every=0.01, redaction=redaction)
    log.start()
    for one in records:
        log.add(model, one)
    log.close()
    assert not list((home / "requests").rglob("*.jsonl"))
    text = "".join(str(pq.read_table(path).to_pylist()) for path in (home / "requests").rglob("*.parquet"))
    return text, list(read_requests(home / "requests", model))


def test_what_is_redacted_never_reaches_the_disk(tmp_path, rules):
    refused = record(error=f"name: {SECRETS[0]!r} is no name.", values=None)
    text, (first, second) = written(tmp_path, rules(RULES), [record(), refused])
    assert not [secret for secret in SECRETS if secret in text]
    assert "rich" not in text
    assert (first["values"]["comment"], first["values"]["age"]) == ("a long", 36)
    assert set(first["values"]) == {"email", "wage", "comment", "age"}
    assert set(first["redacted"]) == {"(answer)", "name", "email", "card_number", "comment", "wage"}
    assert (first.get("mean"), first.get("std"), second["error"]) == (None, None, "redacted")


def test_equal_values_have_equal_hashes_under_one_key(tmp_path, rules):
    _, (first, again, other) = written(
        tmp_path, rules(RULES), [record(), record(), record(values={"email": "bob@example.org"})]
    )
    assert first["values"]["email"] == again["values"]["email"] != other["values"]["email"]
    assert first["label"] == again["label"]
    assert (tmp_path / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    _, later = written(tmp_path, Redaction(tmp_path), [record()])
    assert later[-1]["values"]["email"] == first["values"]["email"]
    (tmp_path / SECRET_FILE).unlink()
    _, later = written(tmp_path, Redaction(tmp_path), [record()])
    assert later[-1]["values"]["email"] != first["values"]["email"]


def test_other_models_and_missing_values_are_left_alone(tmp_path, rules):
    redaction = rules(RULES)
    _, (other,) = written(tmp_path, redaction, [record()], model="wine")
    assert other == told(record(mean=None, std=None))
    assert written(tmp_path, rules({"adult": RULES["adult*"]}), [record()], model="beer")[1] == [told(record())]
    redaction = rules(RULES)
    _, (empty,) = written(tmp_path, redaction, [record(values={"email": None, "comment": None, "age": 3})])
    assert empty["values"] == {"email": None, "comment": None, "age": 3}
    assert written(tmp_path, redaction, [record(values={"age": 3}, std=0.0)])[1][-1]["std"] == 0.0


def test_only_what_is_to_be_kept_is_kept_and_the_strictest_rule_counts(tmp_path, rules):
    redaction = rules(
        {"adult": {"keep": ["a*", "email"], "answer": "drop"}, "adult*": {"hash": ["email"]}, "*": {"drop": ["e*"]}}
    )
    _, (only,) = written(tmp_path, redaction, [record()])
    assert (only["values"], only.get("label")) == ({"age": 36}, None)


def test_what_could_not_be_written_is_not_hashed_twice(tmp_path, rules):
    folder = tmp_path / "requests"
    folder.mkdir()
    (folder / "adult").write_text("in the way")
    log = RequestLog(folder, every=3600, redaction=rules(RULES))
    log.add("adult", record())
    log._write()
    (folder / "adult").unlink()
    log.add("adult", record(time=2.0))
    log._write()
    first, second = read_requests(folder, "adult")
    assert first["values"] == second["values"]
    for stream in log._streams.values():
        stream.close()


def test_changed_rules_count_and_broken_ones_do_not(tmp_path, rules, caplog):
    redaction = rules({})
    rules(RULES)
    redaction.refresh()
    one = record()
    redaction.apply("adult", one)
    assert "name" not in one["values"]
    (tmp_path / REDACT_FILE).write_text('{"adult": {"dorp": []}}')
    redaction.refresh()
    (tmp_path / REDACT_FILE).unlink()
    redaction.refresh()
    redaction.refresh()
    one = record()
    redaction.apply("adult", one)
    assert "name" not in one["values"]
    assert [r.levelno for r in caplog.records] == [logging.ERROR, logging.WARNING]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSON"),
        ('{"a": {"dorp": []}}', r"a.dorp: Extra"),
        ('{"a": {"sample": 2}}', "a.sample"),
        ("[]", "object"),
    ],
)
def test_broken_rules_end_the_start(rules, text, reason):
    with pytest.raises(ConfigError, match=reason):
        rules(text)


def test_samples_are_left_out_at_random_and_counted(tmp_path, rules):
    log = RequestLog(tmp_path / "requests", sample=0.5, redaction=rules({"adult": {"sample": 0.4}}))
    for _ in range(2000):
        log.add("adult", record())
    assert 1500 < log.skipped < 1700  # of 2000 times 0.8; 100 are more than 5 standard deviations
    assert log.dropped == 0
    log.start()
    log.close()
    assert len(list(read_requests(tmp_path / "requests", "adult"))) == 2000 - log.skipped


def test_a_log_that_is_half_full_is_thinned(tmp_path):
    log = RequestLog(tmp_path, capacity=2000)
    for _ in range(2000):
        log.add("adult", {"time": 1.0})
    assert 850 < log.skipped < 950
    log.start()
    log.close()


def test_one_key_whoever_is_first(tmp_path, rules):
    rules(RULES)
    (tmp_path / SECRET_FILE).unlink()
    found, barrier = [], threading.Barrier(4)

    def begin():
        barrier.wait()
        found.append(Redaction(tmp_path)._plan._hashed("x"))

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_rules_of_packages_count_beside_the_file_and_go_after_what_waits_is_written(rules):
    redaction = rules({"adult": {"drop": ["name"]}})
    redaction.packaged([("adult", Rule(hash=("age",), sample=0.25)), ("wine", Rule(drop=("*",)))])
    one = record()
    redaction.apply("adult", one)
    assert ("name" in one["values"], one["values"]["age"] == 36, redaction.share("adult")) == (False, False, 0.25)
    redaction.packaged([])
    redaction.refresh()  # what was asked of the version that went is written now
    redaction.apply("adult", waited := record())
    redaction.refresh()
    redaction.apply("adult", later := record())
    assert waited["values"]["age"] == one["values"]["age"]
    assert (later["values"]["age"], "name" in later["values"], redaction.share("adult")) == (36, False, 1.0)


def test_without_the_key_of_the_hashes_nothing_is_written_in_their_place(tmp_path, monkeypatch, caplog):
    redaction = Redaction(tmp_path)
    whole = redact.secret_in
    monkeypatch.setattr(redact, "secret_in", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    redaction.packaged([("adult", Rule(hash=("email", "wage"), drop=("name", "card*"), answer="hash"))])
    text, (one,) = written(tmp_path, redaction, [record()])
    assert not [secret for secret in SECRETS[:3] if secret in text]
    assert (one.get("label"), set(one["values"])) == (None, {"comment", "age"})
    assert "No space left on device" in caplog.text
    monkeypatch.setattr(redact, "secret_in", whole)
    redaction.refresh()
    redaction.refresh()
    _, (_, later) = written(tmp_path, redaction, [record()])
    assert len(later["values"]["email"]) == len(later["label"]) == 16


def test_a_record_that_cannot_be_redacted_is_not_written(tmp_path, rules):
    text, kept = written(tmp_path, rules(RULES), [record(values={"email": object(), "name": SECRETS[0]}), record()])
    assert SECRETS[0] not in text
    assert len(kept) == 1
