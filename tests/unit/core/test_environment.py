import pytest

from lepton_tasks.core.environment import forget_addresses, load_environment, record_addresses, state_root
from lepton_tasks.core.errors import ConfigError


@pytest.fixture
def variables(tmp_path):
    return {"LEPTON_HOME": str(tmp_path)}


def test_what_was_started_wins_over_the_file_and_variables_over_both(tmp_path, variables):
    assert load_environment(variables).tracking_url == "http://127.0.0.1:5000"
    record_addresses(tmp_path, {"tracking_url": "http://127.0.0.1:5055"})
    assert load_environment(variables).tracking_url == "http://127.0.0.1:5055"
    assert load_environment(variables | {"LEPTON_MLFLOW_PORT": "6000"}).tracking_url == "http://127.0.0.1:6000"
    forget_addresses(tmp_path)
    assert load_environment(variables).tracking_url == "http://127.0.0.1:5000"


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_a_wrong_port_names_its_variable(variables, port):
    with pytest.raises(ConfigError, match=f"LEPTON_MLFLOW_PORT: '{port}' is not a port"):
        load_environment(variables | {"LEPTON_MLFLOW_PORT": port})


def test_what_kubernetes_tells_of_a_service_of_that_name_is_no_port_of_ours(variables):
    variables |= {"LEPTON_SERVING_PORT": "tcp://10.96.7.1:8100", "LEPTON_SERVING_URL": "http://lepton-serving:8100"}
    assert load_environment(variables).serving_url == "http://lepton-serving:8100"


def test_a_wrong_key_names_file_and_key(tmp_path, variables):
    path = tmp_path / "edge.yaml"
    path.write_text("servng_url: x\n")
    with pytest.raises(ConfigError, match=r"edge.yaml: servng_url"):
        load_environment(variables | {"LEPTON_ENVIRONMENT": str(path)})


def test_a_tilde_is_the_home_folder_where_no_shell_has_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    variables = {"LEPTON_HOME": "~/state", "LEPTON_DATA": "~/data"}
    assert state_root(variables) == tmp_path / "state"
    assert load_environment(variables).data_root == str(tmp_path / "data")
