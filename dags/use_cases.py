"""One Airflow Dag for each file in configs/use_cases. What a broken file says is in use_case_errors.py."""

from lepton_airflow.dag import build_dags, use_case_folder

for dag in build_dags(use_case_folder(__file__)).dags:
    globals()[dag.dag_id] = dag
