"""Write docker/.env, the secrets of compose.yaml, once: `python3 docker/make_env.py`. Needs nothing but Python."""

import base64
import os
import secrets
import sys
from pathlib import Path

_TOKENS = (  # 48 random bytes each, in characters that need no quoting in a URL or a shell
    "POSTGRES_PASSWORD",
    "AIRFLOW_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_SECRET_KEY",
    "LEPTON_API_KEY",
)


_LATER = ("LEPTON_API_KEY",)  # came after the others: a file may lack it, and nothing stored was made with it


def lines() -> list[str]:
    """`NAME=value` for every secret, each newly drawn."""
    return [
        *(f"{name}={secrets.token_urlsafe(48)}" for name in _TOKENS),
        f"AIRFLOW_FERNET_KEY={base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}",
        f"AIRFLOW_ADMIN_PASSWORD={secrets.token_urlsafe(12)}",
    ]


def missing(text: str) -> list[str]:
    """`NAME=value` for the secrets of later days that a file of this text lacks."""
    known = {line.partition("=")[0].strip() for line in text.splitlines()}
    return [line for line in lines() if (name := line.partition("=")[0]) in _LATER and name not in known]


def main(path: Path) -> int:
    """Write the file, readable by its owner only; an existing one gets what it lacks of what was added since."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = path.read_text()
        if added := missing(text):
            with path.open("a") as stream:
                stream.write("\n" * (not text.endswith("\n")) + "\n".join(added) + "\n")
            print(f"{path}: added {', '.join(line.partition('=')[0] for line in added)}; the rest is as it was.")
            return 0
        print(f"{path} exists. The databases were made with its passwords: remove both or keep both.", file=sys.stderr)
        return 1
    with os.fdopen(handle, "w") as stream:
        stream.write("\n".join(lines()) + "\n")
    print(
        f"{path} written; AIRFLOW_ADMIN_PASSWORD in it is the password of Airflow's user admin, "
        "LEPTON_API_KEY is what predictions are asked for with."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).with_name(".env")))
