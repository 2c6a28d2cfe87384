"""From a request to its answer: jobs, batches, tensors."""
