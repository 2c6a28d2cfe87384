import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from lepton_tasks.core.heap import retain_freed_memory
if sys.argv[1:]:
    retain_freed_memory(1 << 28)
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    arrays = [np.ones(1 << 21), np.ones(1 << 21)]  # 16 MiB each
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_arrays_that_come_again_take_the_pages_of_those_before():
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, *words], capture_output=True, text=True, check=True).stdout)
        for words in ([], ["keep"])
    )
    assert kept < plain / 5
