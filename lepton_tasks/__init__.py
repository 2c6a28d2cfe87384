"""Machine-learning pipelines: from source data to a verified model in production."""

import os

# Polars reads these when it is loaded; here, because whatever loads Polars imports this package first. Memory that one
# part gave back serves the next, for 10 s, before the kernel has it, in huge pages, and is kept once a core, not four
# times (015, 082).
# Each core computes a part of its own, so as many threads again inside of Polars get into its way (062).
_CORES = os.cpu_count() or 1
# Arrays above 8 MB are no exception.
_HEAP = f"dirty_decay_ms:10000,muzzy_decay_ms:10000,narenas:{_CORES},thp:always,oversize_threshold:0"
os.environ.setdefault("_RJEM_MALLOC_CONF", _HEAP)
os.environ.setdefault("POLARS_MAX_THREADS", str(max(1, _CORES // 2)))
# A part is one piece, not five that are joined before they are computed with: a twentieth of the data stages' time.
os.environ.setdefault("POLARS_IDEAL_MORSEL_SIZE", "500000")

# ONNX Runtime reads it when it is loaded: its official Linux builds, from 1.29 on, else report to their maker what is
# loaded (names of models, hashes of graph and weights). Whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# NumPy and SciPy each load an OpenBLAS whose threads, one for each other core, spin for 0.1 s after they are started:
# on two cores a third of what importing both takes. Few of our products of matrices are large, and torch's are its own,
# except on ARM, where it computes them with OpenBLAS.
if os.uname().machine == "x86_64":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
