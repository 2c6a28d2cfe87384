"""What the benchmarks of serving share: models, servers of ours and of peers, load, and the report."""
