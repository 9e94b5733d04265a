"""Runs `persona` commands as processes forked from one that has imported everything: real ones, sooner there."""

import json
import os
import sys
import traceback
from typing import Any

from daemon.cli.main import main


def serve() -> None:
    """Answer each job line with the exit code of its process."""
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_run(job))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(job: dict[str, Any]) -> int:
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    for number, name in enumerate(("in", "out", "err")):
        os.dup2(os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8") for number in range(3)
    )
    sys.argv = ["persona", *job["arguments"]]
    try:
        main()
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
