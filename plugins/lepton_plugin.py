"""Entry point of the Airflow plugin."""

from airflow.plugins_manager import AirflowPlugin
from lepton_airflow.data_docs import PREFIX, DataDocs


class LeptonPlugin(AirflowPlugin):
    """Serves the Data Docs at Airflow's address."""

    name = "lepton"
    fastapi_apps = [{"app": DataDocs(), "url_prefix": PREFIX, "name": "Data Docs"}]
