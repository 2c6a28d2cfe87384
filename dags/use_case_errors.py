"""Report every invalid file of configs/use_cases as an Airflow import error.

It holds no Dag: Airflow loses (or refuses to trigger) every Dag of a file that has an import error.
"""

from lepton_airflow.files import build_dags, use_case_folder

build_dags(use_case_folder(__file__)).raise_errors()
