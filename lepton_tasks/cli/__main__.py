"""`python -m lepton_tasks.cli`: the same as `lepton`."""

from lepton_tasks.cli.app import main

if __name__ == "__main__":
    main()
