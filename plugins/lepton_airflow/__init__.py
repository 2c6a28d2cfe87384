"""Lepton's face in Airflow: a use case becomes a Dag, a stage becomes a task."""
