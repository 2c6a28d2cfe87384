"""Health check of a service; the exit status is the result.

python healthcheck.py URL          it answers with 200
python healthcheck.py URL PART     ... and its JSON reply says that PART is healthy (Airflow tells of its parts so)
"""

import json
import ssl
import sys
import urllib.request


def fault(url: str, part: str | None = None, *, timeout: float = 4.0) -> str | None:
    """What is wrong with the service at `url`, or None; `timeout` in seconds."""
    itself = ssl.create_default_context()  # asked on 127.0.0.1, a name that its certificate need not have
    itself.check_hostname, itself.verify_mode = False, ssl.CERT_NONE
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=itself)
    direct = urllib.request.build_opener(*handlers)  # a proxy's settings are not for us
    try:
        with direct.open(url, timeout=timeout) as reply:  # raises for any status but 2xx
            status = json.load(reply)[part]["status"] if part else "healthy"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{url}: {error!r}"
    return None if status == "healthy" else f"{url}: {part} is {status}"


if __name__ == "__main__":
    sys.exit(fault(*sys.argv[1:3]))
