"""What Airflow loads from this folder."""

from airflow.plugins_manager import AirflowPlugin
from lepton_airflow.data_docs import PREFIX, DataDocs


class LeptonPlugin(AirflowPlugin):
    """Pages of ours at Airflow's address."""

    name = "lepton"
    fastapi_apps = [{"app": DataDocs(), "url_prefix": PREFIX, "name": "Data Docs"}]
