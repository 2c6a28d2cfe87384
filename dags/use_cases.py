"""Two Dags per file in configs/use_cases: runs, and checks of what is deployed (``.watch``).

Invalid files are reported by use_case_errors.py.
"""

from lepton_airflow.files import build_dags, use_case_folder

for dag in build_dags(use_case_folder(__file__)).dags:
    globals()[dag.dag_id] = dag
