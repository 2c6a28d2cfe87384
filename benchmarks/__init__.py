"""Speed and memory relative to other tools, or to a limit measured in the same run."""
