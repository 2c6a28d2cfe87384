"""`lepton`: the command line."""

from lepton_tasks.cli.app import main

__all__ = ["main"]
