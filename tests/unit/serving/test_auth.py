import hashlib
import json
import multiprocessing
import pickle
import struct

import pytest

from lepton_tasks.core.access import TOKEN_FILE, own_key, stage_key
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.access import auth
from lepton_tasks.serving.access.auth import Guard, check_address
from lepton_tasks.serving.access.keys import KEYS_FILE, add_key, expiry, read_keys, revoke_keys
from lepton_tasks.serving.access.rates import Rates
from lepton_tasks.serving.errors import ForbiddenError, NotAllowedError, TooManyError, status_of
from lepton_tasks.serving.inference.request import error_reply


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path):
    return tmp_path / KEYS_FILE


def guard_of(file, clock, **options):
    return Guard(file, clock=clock, wall=clock, **options)


def bearer(token):
    return f"Bearer {token}".encode()


def test_a_key_opens_its_models_and_no_others(file, clock):
    token, key = add_key(file, "shop", now=0, models=["digits*", "wine"])
    guard = guard_of(file, clock)
    for header in (bearer(token), f"Bearer {token}", f"bearer {token}"):
        assert guard.admit(header, "digits_small") == key.id == f"shop-{hashlib.sha256(token.encode()).hexdigest()[:8]}"
    assert guard.admit(bearer(token), "") == key.id
    for _ in range(2):  # the second time from memory
        with pytest.raises(NotAllowedError, match=rf"{key.id} is not for 'wines'"):
            guard.admit(bearer(token), "wines")


@pytest.mark.parametrize(
    "header", [None, b"", "", b"Bearer", b"Bearer ", b"Basic abc", b"Bearer lepton_x", "Bearer \u4e2d"]
)
def test_what_is_no_known_key_is_refused(file, clock, header):
    add_key(file, "shop", now=0)
    with pytest.raises(ForbiddenError) as refused:
        guard_of(file, clock).admit(header, "digits")
    assert status_of(refused.value) == 401


def test_neither_the_key_nor_its_hash_is_a_way_back_in(file, clock):
    token, key = add_key(file, "shop", now=0)
    assert token not in file.read_text()
    assert len(token) == len("lepton_") + 43  # 256 bits
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ForbiddenError):
        guard_of(file, clock).admit(bearer(key.sha256), "digits")


def test_a_key_expires_on_time(file, clock):
    token, key = add_key(file, "shop", now=0, expires=1010.0)
    guard = guard_of(file, clock)
    assert guard.admit(bearer(token), "digits") == key.id
    clock.now = 1010.0
    with pytest.raises(ForbiddenError, match="has expired"):
        guard.admit(bearer(token), "digits")


def test_a_rate_lets_a_burst_through_and_then_its_rate(file, clock, tmp_path):
    token, _ = add_key(file, "shop", now=0, rate=2, burst=3)
    guard = guard_of(file, clock, rates=tmp_path / "rates")

    def taken(seconds):
        clock.now += seconds
        count = 0
        while True:
            try:
                guard.admit(bearer(token), "digits")
                count += 1
            except TooManyError as error:
                return count, round(error.seconds, 6)

    assert taken(0) == (3, 0.5)
    assert taken(0.4) == (0, 0.1)
    assert taken(0.1) == (1, 0.5)
    assert taken(100) == (3, 0.5)


def test_rates_of_keys_are_apart_and_a_refused_model_uses_none(file, clock):
    first, _ = add_key(file, "a", now=0, rate=1, burst=1, models=["digits"])
    second, _ = add_key(file, "b", now=0, rate=1, burst=1)
    guard = guard_of(file, clock)
    with pytest.raises(NotAllowedError):
        guard.admit(bearer(first), "wine")
    guard.admit(bearer(first), "digits")
    guard.admit(bearer(second), "digits")
    with pytest.raises(TooManyError):
        guard.admit(bearer(first), "digits")


def _take(path, barrier, taken):
    rates = Rates(path, 4)
    barrier.wait()
    taken.put(sum(rates.take(2, 1.0, 50, 0.0) == 0.0 for _ in range(100)))


def test_processes_share_a_rate(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, taken = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_take, args=(tmp_path / "rates", barrier, taken)) for _ in range(2)]
    for worker in workers:
        worker.start()
    total = taken.get(timeout=30) + taken.get(timeout=30)
    for worker in workers:
        worker.join()
    assert total == 50  # not 100


@pytest.mark.parametrize("left", [1e12, float("inf"), float("nan"), -5.0])
def test_whatever_a_restarted_machine_left_in_the_file_is_over_after_one_burst(tmp_path, left):
    rates = Rates(tmp_path / "rates", 4)
    (tmp_path / "rates").write_bytes(struct.pack("=4d", *[left] * 4))
    for second in range(20):
        rates.take(1, 1.0, 5, float(second))
    assert [rates.take(1, 1.0, 5, 100.0) == 0 for _ in range(6)] == [True] * 5 + [False]


def test_changes_count_within_a_second_and_not_sooner(file, clock):
    guard = guard_of(file, clock)
    assert guard.open
    assert guard.admit(None, "digits") == ""
    old, first = add_key(file, "shop", now=0)
    assert guard.admit(None, "digits") == ""
    clock.now += 1.0
    with pytest.raises(ForbiddenError):
        guard.admit(None, "digits")
    new, second = add_key(file, "shop", now=1)
    clock.now += 1.0
    assert [guard.admit(bearer(token), "digits") for token in (old, new)] == [first.id, second.id]
    assert [key.id for key in revoke_keys(file, "shop", old=True)] == [first.id]
    clock.now += 1.0
    assert guard.admit(bearer(new), "digits") == second.id
    with pytest.raises(ForbiddenError):
        guard.admit(bearer(old), "digits")
    revoke_keys(file, second.id)
    clock.now += 1.0
    with pytest.raises(ForbiddenError):  # a file without keys lets nobody in
        guard.admit(bearer(new), "digits")


@pytest.mark.parametrize("harm", [lambda file: file.write_text("{"), lambda file: file.chmod(0o666)])
def test_a_file_that_breaks_opens_nothing(file, clock, harm, caplog):
    token, key = add_key(file, "shop", now=0)
    guard = guard_of(file, clock)
    harm(file)
    for _ in range(3):
        clock.now += 1.0
        assert guard.admit(bearer(token), "digits") == key.id
        with pytest.raises(ForbiddenError):
            guard.admit(None, "digits")
    assert len([r for r in caplog.records if "stay good" in r.getMessage()]) == 1


def test_a_file_that_goes_takes_its_keys_with_it_before_and_after_a_restart(file, clock, caplog):
    (file.parent / TOKEN_FILE).write_text("secret\n")
    token, _ = add_key(file, "shop", now=0)
    stages = bearer(stage_key("secret"))

    def started():
        return auth.guard_of(file.parent, "secret", {})

    def look(guard):
        guard._next_check = 0.0  # a second later

    def is_closed(guard):
        for _ in range(3):
            look(guard)
            for header in (bearer(token), None):
                with pytest.raises(ForbiddenError):
                    guard.admit(header, "digits")
            assert guard.admit(stages, "digits").startswith("stages-")
        errors = [record.getMessage() for record in caplog.records if "is gone" in record.getMessage()]
        caplog.clear()
        return errors

    running = started()
    file.unlink()
    (once,) = is_closed(running)
    assert once.startswith(f"{file} is gone")
    assert f"delete {file.parent / auth.REQUIRED_FILE}, too, and restart" in once
    restarted = started()
    assert is_closed(restarted) == [once]
    check_address("0.0.0.0", restarted)

    new, key = add_key(file, "shop", now=0)
    for guard in (running, restarted):
        look(guard)
        assert guard.admit(bearer(new), "digits") == key.id
    for path in (file, file.parent / auth.REQUIRED_FILE):
        path.unlink()
    assert is_closed(running)  # what runs is never opened
    assert started().open


def test_a_server_with_a_given_key_does_not_miss_a_file(file, clock, caplog):
    guard_of(file, clock, given="lepton_given")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSON"),
        ('{"keys": [{"name": "a"}]}', "keys.0.sha256: Field required"),
        ('{"keys": [], "more": 1}', "more: Extra inputs"),
        ('{"schema_version": 2}', "schema_version"),
    ],
)
def test_a_broken_file_ends_the_start_with_its_name_and_place(file, clock, text, reason):
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason) as refused:
        guard_of(file, clock)
    assert str(file) in str(refused.value)


def test_two_keys_with_one_slot_are_refused(file, clock):
    _, key = add_key(file, "a", now=0)
    twice = [key.model_dump(), {**key.model_dump(), "sha256": "0" * 64}]
    file.write_text(json.dumps({"keys": twice}))
    with pytest.raises(ConfigError, match="same slot"):
        guard_of(file, clock)


def test_a_revoked_slot_is_used_again(file):
    for name in "abc":
        add_key(file, name, now=0)
    revoke_keys(file, "b")
    assert add_key(file, "d", now=0)[1].slot == 1
    assert [key.slot for key in read_keys(file)] == [0, 2, 1]


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Shop!"}, {"rate": 0}, {"rate": float("inf")}, {"burst": 3}, {"models": []}, {"rate": 1, "burst": 0}],
)
def test_a_wrong_key_is_not_made(file, wrong):
    options = {"name": "shop", **wrong}
    with pytest.raises(ConfigError):
        add_key(file, options.pop("name"), now=0, **options)
    assert not file.exists()


def test_an_unknown_name_is_not_revoked(file):
    add_key(file, "shop", now=0)
    with pytest.raises(ConfigError, match=r"no key 'shpo'.*Known: shop"):
        revoke_keys(file, "shpo")


def test_times_of_expiry():
    assert expiry("90d", now=10.0) == 10 + 90 * 86_400
    assert expiry("30m", now=0.0) == 1800
    assert expiry("2031-01-31", now=0.0) == 1_927_584_000
    assert expiry("1970-01-02T01:00:00+01:00", now=0.0) == 86_400
    for wrong in ("soon", "5", "1970-01-01"):
        with pytest.raises(ConfigError):
            expiry(wrong, now=0.0)


def test_the_stages_key_follows_from_the_token_and_is_no_token(file, clock, tmp_path, monkeypatch):
    monkeypatch.delenv("LEPTON_API_KEY", raising=False)
    (tmp_path / "admin.token").write_text("secret\n")
    key = own_key(tmp_path)
    assert key == stage_key("secret") != stage_key("secret2")
    assert "secret" not in key
    guard = guard_of(file, clock, stages=key)
    assert guard.open  # it keeps nobody out by itself
    add_key(file, "shop", now=0)
    guard = guard_of(file, clock, stages=key)
    assert guard.admit(bearer(key), "anything").startswith("stages-")
    with pytest.raises(ForbiddenError):
        guard.admit(bearer("secret"), "anything")
    assert own_key(tmp_path / "elsewhere") == ""
    monkeypatch.setenv("LEPTON_API_KEY", "lepton_mine")
    assert own_key(tmp_path) == own_key() == "lepton_mine"


def test_a_key_of_the_environment_closes_the_server(file, clock):
    guard = guard_of(file, clock, given="lepton_given")
    assert not guard.open
    assert guard.admit(bearer("lepton_given"), "digits").startswith("environment-")
    token, key = add_key(file, "shop", now=0)
    clock.now += 1
    assert guard.admit(bearer(token), "digits") == key.id
    assert guard.admit(bearer("lepton_given"), "digits").startswith("environment-")


def test_other_machines_are_not_let_in_without_keys(file, clock):
    guard = guard_of(file, clock)
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        check_address(host, guard)
    for host in ("0.0.0.0", "::", "192.168.1.7", "serving.example", ""):
        with pytest.raises(ConfigError, match="lepton key add"):
            check_address(host, guard)
        check_address(host, guard, insecure=True)
    add_key(file, "shop", now=0)
    check_address("0.0.0.0", guard_of(file, clock))


def test_a_refusal_survives_a_process_boundary():
    copy = pickle.loads(pickle.dumps(TooManyError("slow down.", seconds=2.5)))
    assert (type(copy), str(copy), copy.seconds, copy.retryable) == (TooManyError, "slow down.", 2.5, True)
    assert ("retry-after", "3") in error_reply(copy).headers


def test_files_are_made_by_one_at_a_time(file):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_key, args=(file, f"k{i}"), kwargs={"now": 0}) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(key.name for key in read_keys(file)) == [f"k{i}" for i in range(8)]
    assert {path.name for path in file.parent.iterdir()} == {KEYS_FILE, f".{KEYS_FILE}.lock"}


def test_a_file_of_keys_that_is_named_must_be_there(tmp_path):
    elsewhere = tmp_path / "secret" / "keys.json"
    with pytest.raises(ConfigError, match="no such file"):
        auth.guard_of(tmp_path, "token", {}, elsewhere)
    token, key = add_key(elsewhere, "shop", now=0)
    assert auth.guard_of(tmp_path, "token", {}, elsewhere).admit(bearer(token), "wine") == key.id
    assert auth.guard_of(tmp_path, "token", {}).open
