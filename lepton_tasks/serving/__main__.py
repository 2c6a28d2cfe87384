"""`python -m lepton_tasks.serving`."""

import sys

from lepton_tasks.serving.server import main

if __name__ == "__main__":
    sys.exit(main())
