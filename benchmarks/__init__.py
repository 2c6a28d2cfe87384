"""Speed and memory relative to other tools, or to a limit measured in the same run."""

import lepton_tasks  # noqa: F401 - its settings must be there before Polars is loaded, as in the product
