"""Airflow reads its settings when it is first imported, and makes a folder in the home directory without them."""

import os
import tempfile
from pathlib import Path

_home = Path(tempfile.mkdtemp(prefix="lepton-test-airflow-"))
_project = Path(__file__).parents[2]
SETTINGS = {
    "AIRFLOW_HOME": str(_home),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(_project / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAG_IGNORE_FILE_SYNTAX": "regexp",
    "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACKS": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
}
os.environ.update(SETTINGS)


def pytest_unconfigure():
    import shutil

    shutil.rmtree(_home, ignore_errors=True)
