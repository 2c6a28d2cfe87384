"""Observability: metrics, request log, traces."""
