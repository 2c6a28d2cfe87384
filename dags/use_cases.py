"""One Airflow Dag per file in configs/use_cases. Invalid files are reported by use_case_errors.py."""

from lepton_airflow.dag import build_dags, use_case_folder

for dag in build_dags(use_case_folder(__file__)).dags:
    globals()[dag.dag_id] = dag
