"""`python -m compose.containers.health`: exit code 0 when the process of this container does its work."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 3.0


def is_ready(port: int) -> bool:
    """Whether `/readyz` on this port says so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        # Docker keeps what is printed: `docker inspect` then says what is missing.
        sys.stdout.write(answer.read(1_000).decode(errors="replace"))
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no answer: {error!r}")
        return False
    finally:
        connection.close()
    return answer.status == http.client.OK


if __name__ == "__main__":
    sys.exit(0 if is_ready(int(os.environ["MURMURATION_HTTP_PORT"])) else 1)
