"""Airflow integration: a use case becomes a Dag, a stage becomes a task."""
