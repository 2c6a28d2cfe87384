"""From the rows of a source to a checked model that serves."""

import os

# Polars reads it when it is loaded: memory that one part gave back serves the next, for 10 s, before the kernel has it,
# and is kept once a core, not four times (docs/decisions/015). Here, because whatever loads Polars imports this package
# first.
os.environ.setdefault("_RJEM_MALLOC_CONF", f"dirty_decay_ms:10000,muzzy_decay_ms:10000,narenas:{os.cpu_count() or 1}")

# ONNX Runtime reads it when it is loaded: its official Linux builds, from 1.29 on, else report to their maker what is
# loaded (names of models, hashes of graph and weights). Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
