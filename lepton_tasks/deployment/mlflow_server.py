"""`python -m lepton_tasks.deployment.mlflow_server OPTIONS`: run `mlflow server OPTIONS` in one process.

MLflow's own command imports the whole server to prepare the database, then starts a process that imports it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import uvicorn  # before MLflow, which enables its cross-origin protection only if a server is already loaded


def main(options: Sequence[str]) -> None:
    """Run the server until it is stopped.

    Args:
        options: Options of ``mlflow server``, with one worker.
    """
    import mlflow.cli
    import mlflow.server

    def serve(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
        os.environ.update(extra_env)
        uvicorn.main(command[command.index("uvicorn") + 1 :])
        sys.exit()  # not reached: uvicorn's command exits the process

    # Replaces the start of the second process. Has no effect on MLflow versions without this function.
    vars(mlflow.server)["_exec_cmd"] = serve
    mlflow.cli.cli(["server", *options])


if __name__ == "__main__":
    main(sys.argv[1:])
