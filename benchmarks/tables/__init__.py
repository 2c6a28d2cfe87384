"""What `benchmarks.data_tables` measures: the rows, and every subject as a process of its own."""
