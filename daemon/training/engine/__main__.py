"""The trainer child: `python -m daemon.training.engine` reads job lines and writes event lines."""

import argparse
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from daemon.training.engine.job import Failed, Job
from daemon.training.engine.report import JobFailed, Reporter, first_line

if TYPE_CHECKING:
    from daemon.training.engine.worker import Worker

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the arguments, import the heavy libraries, do jobs until input ends or the idle time is over."""
    began = time.monotonic()
    arguments = _arguments()
    _die_with(arguments.parent)
    # Meant for the daemon, but `systemctl kill -s SIGUSR1` reaches every process of the service.
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(arguments.nice)
    report = Reporter(_own_stdout())
    # Threads that wait by spinning slow each other tenfold where cores are shared, and this process is a guest; those
    # that never do wake too slowly for thousands of small steps. So they spin for some twenty microseconds.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with report.beating("starting"):
        import torch
        from transformers.utils import logging

        from daemon.training.engine.worker import Worker
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.use_deterministic_algorithms(True, warn_only=True)
    worker = Worker(report, starting=time.monotonic() - began)
    for line in _lines(arguments.idle_timeout):
        _serve(worker, report, line)


def _serve(worker: "Worker", report: Reporter, line: str) -> None:
    """One job line to one last event; whatever goes wrong becomes a sentence, and the next line has its turn."""
    try:
        job = Job.parse(line)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        report.emit(Failed(f"the job line cannot be read: {type(error).__name__}: {error}", False))
        return
    try:
        report.emit(worker.do(job))
    except JobFailed as failure:
        report.emit(Failed(failure.reason, failure.retry, failure.blameless))
    except Exception as error:  # noqa: BLE001 (the loop's edge: no job may take the child down)
        worker.drop()
        report.emit(_broken(error))


def _broken(error: Exception) -> Failed:
    """What is said of a job that ended with an error nobody foresaw; memory and disks are the machine's."""
    first = first_line(error)
    if isinstance(error, MemoryError) or "out of memory" in first.lower() or "can't allocate memory" in first:
        why = f"the training ran out of memory ({first}); take a smaller base model or a smaller batch_size"
        return Failed(why, blameless=True)
    return Failed(f"the training broke: {type(error).__name__}: {first}", blameless=isinstance(error, OSError))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m daemon.training.engine", description=__doc__)
    parser.add_argument(
        "--idle-timeout", type=float, default=0, help="seconds without a job before it leaves; 0: never"
    )
    parser.add_argument("--nice", type=int, default=0, help="added to the process's niceness")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process it must not outlive")
    return parser.parse_args()


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, which may be gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the parent process is gone")


def _own_stdout() -> TextIO:
    """The real standard output for events alone; whatever else is printed goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def _lines(idle: float) -> Iterator[str]:
    """Lines of standard input until it ends, or until none came for `idle` seconds."""
    rest = b""
    while True:
        *lines, rest = rest.split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines if line.strip())
        # Not sys.stdin: its buffer would hide lines from select.
        if not select.select([0], [], [], idle or None)[0]:
            return
        received = os.read(0, 1 << 20)
        if not received:
            return
        rest += received


if __name__ == "__main__":
    main()
