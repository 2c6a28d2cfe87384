"""`python -m lepton_tasks.deployment.mlflow_server OPTIONS`: `mlflow server OPTIONS` in one process.

MLflow's command imports its whole server to prepare the database, then starts another process that imports it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import uvicorn  # before MLflow, whose protection against foreign pages is on only if it finds a server loaded


def main(options: Sequence[str]) -> None:
    """Run the server until it is told to end.

    Args:
        options: Of ``mlflow server``, with one worker.
    """
    import mlflow.cli
    import mlflow.server

    def serve(command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any) -> NoReturn:
        os.environ.update(extra_env)
        uvicorn.main(command[command.index("uvicorn") + 1 :])
        sys.exit()  # not reached: the command above ends the process as it would end its own

    # What starts the second process. A version of MLflow that has it no more starts one as it likes.
    vars(mlflow.server)["_exec_cmd"] = serve
    mlflow.cli.cli(["server", *options])


if __name__ == "__main__":
    main(sys.argv[1:])
