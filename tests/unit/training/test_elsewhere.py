import subprocess

import pytest
import tiny_training

from lepton_tasks.core.environment import Training
from lepton_tasks.core.errors import StageError, UnavailableError
from lepton_tasks.training.elsewhere import Elsewhere, sign_of_life
from lepton_tasks.training.launch import end, wait
from lepton_tasks.training.node import _calls, called


@pytest.fixture
def of(tmp_path, request):
    pods = {"image": "i", "claim": "c", "patience": getattr(request, "param", 60)}
    return tiny_training.job(tmp_path).model_copy(update={"machines": Training(kubernetes=pods)})


def test_it_waits_for_what_the_nodes_write(tmp_path, of):
    with called(tmp_path, of.file, "a-run") as call:
        process = Elsewhere(of, call)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
        of.outcome.write_text('{"epochs": 3}')
        assert wait(of, process, lambda row: None) == {"epochs": 3}
    assert not call.exists()


@pytest.mark.parametrize("of", [0.3], indirect=True)
def test_pods_that_are_not_heard_of_are_named_with_the_way_to_start_them(tmp_path, of):
    with called(tmp_path, of.file, "a-run") as call:
        process = Elsewhere(of, call)
        sign_of_life(call).touch()
        with pytest.raises(UnavailableError, match=r"no pod has trained for 0\.3 s.*kubectl replace"):
            wait(of, process, lambda row: None)
    assert not list(call.parent.iterdir())


def test_to_end_it_is_to_take_back_the_call(tmp_path, of, monkeypatch):
    monkeypatch.setattr("lepton_tasks.training.launch._GRACE_SECONDS", 0.1)
    with called(tmp_path, of.file, "a-run") as call:
        process = Elsewhere(of, call)
        end(process)
        assert not call.exists()
        with pytest.raises(StageError, match="SIGKILL"):
            wait(of, process, lambda row: None)


def test_the_oldest_call_comes_first(tmp_path, of):
    with called(tmp_path, of.file, "b"), called(tmp_path, of.file, "a"):
        assert [call.stem for _, call in _calls(tmp_path)] == ["b", "a"]
