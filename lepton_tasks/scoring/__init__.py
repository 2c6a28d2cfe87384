"""Batch scoring: from files of samples to a file of answers, without a server."""
