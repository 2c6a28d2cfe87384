"""Batch scoring: from files of samples to a file of predictions, without a server."""
