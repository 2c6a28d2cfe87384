"""Inference: jobs, batches, tensors."""
