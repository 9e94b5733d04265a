"""The trainer on this machine: one warm child process, watched while it works; nothing here imports torch."""

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import psutil
import structlog

from daemon import children
from daemon.errors import TrainerFailed
from daemon.training.engine.job import Event, Failed, Finished, Job, parse_event

log = structlog.get_logger()

_LINE = 1 << 28
"""Most bytes of one event line: a Finished carries every answer."""
_POLL = 1.0
"""Seconds between two looks at the child's memory."""
_HAND_OVER = 120.0
"""Seconds that a child, which may have to import its libraries first, has to read a job line."""
_GRACE = 0.5
"""Seconds between asking a child to end and ending it."""


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """What one child may take; seconds, and 0 is no limit. `idle_timeout` and `nice` hold for a child's whole life."""

    timeout: float = 6 * 3600
    """Of one job, from its line to its last event."""
    heartbeat: float = 120
    """Of silence while it works."""
    idle_timeout: float = 900
    """Without a job before the child leaves by itself."""
    max_memory_gb: float = 0
    """Resident memory of the child and its children, GiB."""
    nice: int = 10


class LocalTrainer:
    """Trains in a child process that keeps its base model between jobs; a Trainer."""

    def __init__(self, limits: ChildLimits) -> None:
        self.limits = limits
        """Read at the start of every job; replace it to change them."""
        self._child: _Child | None = None
        self._one = asyncio.Lock()

    async def train(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield what happens and end with Finished; raises TrainerFailed; closing the generator ends the child."""
        async with self._one:
            limits = self.limits
            answered = False
            try:
                child = await self._hand_over(job, limits)
                async for event in child.events(limits):
                    answered = isinstance(event, Finished | Failed)
                    if isinstance(event, Failed):
                        raise TrainerFailed(event.reason, event.retry, event.blameless)
                    yield event
            finally:
                if not answered:
                    await self.close()

    async def close(self) -> None:
        """End the child, whatever it does."""
        child, self._child = self._child, None
        if child:
            await child.end()

    async def _hand_over(self, job: Job, limits: ChildLimits) -> "_Child":
        """The child that has the job: the warm one, or a new one where that has left or died meanwhile."""
        if self._child and await self._child.takes(job):
            return self._child
        await self.close()
        self._child = child = await _Child.start(limits)
        await child.takes(job)
        return child


class _Child:
    """One process and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said: deque[str] = deque(maxlen=20)
        self._early: bytes | None = None
        self._listening = asyncio.create_task(self._listen())

    @staticmethod
    async def start(limits: ChildLimits) -> "_Child":
        arguments = ["--idle-timeout", limits.idle_timeout, "--nice", limits.nice, "--parent", os.getpid()]
        command, environment = children.module("daemon.training.engine", *arguments)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE,
            start_new_session=True,
            env=environment,
        )
        return _Child(process)

    @property
    def pid(self) -> int:
        """Its process id, and its process group's."""
        return self._process.pid

    async def takes(self, job: Job) -> bool:
        """Hand it a job; False when it is gone, or goes before it says a word."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(job.line().encode() + b"\n")
            try:
                async with asyncio.timeout(_HAND_OVER):
                    await self._process.stdin.drain()
            except TimeoutError:
                raise TrainerFailed(f"the trainer did not take its job within {_HAND_OVER:g} s", True) from None
        self._early = await self._line()
        return self._early != b""

    async def events(self, limits: ChildLimits) -> AsyncGenerator[Event, None]:
        """What it says up to Finished or Failed; raises TrainerFailed when it breaks, or breaks a limit."""
        began = looked = time.monotonic()
        while True:
            heard = time.monotonic()
            while (line := await self._line()) is None:
                _check_clock(limits, began, heard)
                self._check_memory(limits)
            if not line:
                raise TrainerFailed(await self._obituary(), True)
            try:
                event = parse_event(line.decode())
            except (ValueError, KeyError, TypeError) as error:
                raise TrainerFailed(f"the trainer said something that is no event: {error}", True) from error
            yield event
            if isinstance(event, Finished | Failed):
                return
            if time.monotonic() - looked >= _POLL:
                looked = time.monotonic()
                _check_clock(limits, began, looked)
                self._check_memory(limits)

    async def end(self) -> None:
        """Ask its process group to end, end it within a second, and reap it."""
        self._signal(signal.SIGTERM)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _GRACE)
        finally:
            # The group may outlive its leader; and a cancelled wait must not leave anyone behind.
            self._signal(signal.SIGKILL)
            await asyncio.shield(self._process.wait())
            self._listening.cancel()

    async def _line(self) -> bytes | None:
        """The next line; empty when there will be none, None when there was none for a moment."""
        assert self._process.stdout is not None
        if self._early is not None:
            early, self._early = self._early, None
            return early
        try:
            async with asyncio.timeout(_POLL):
                return await self._process.stdout.readline()
        except TimeoutError:
            return None

    def _check_memory(self, limits: ChildLimits) -> None:
        used = _resident(self.pid) / 2**30
        if 0 < limits.max_memory_gb < used:
            raise TrainerFailed(
                f"the trainer used {used:.2f} GiB of memory, more than max_memory_gb = {limits.max_memory_gb:g}; "
                "raise the limit or take a smaller base model",
                True,
                # The plan or the limit was wrong, whatever the corrections are.
                True,
            )

    async def _obituary(self) -> str:
        """Why a child that said nothing more is gone."""
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listening), _GRACE)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"
        hint = "; most often that is the system running out of memory" if code == -signal.SIGKILL else ""
        last = f"; it last said: {self._said[-1][:200]}" if self._said and code > 0 else ""
        return f"the trainer {how}{hint}{last}"

    async def _listen(self) -> None:
        """Its standard error, line by line, to the log and to memory."""
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self._said.append(text)
                log.debug("trainer.stderr", line=text)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def _check_clock(limits: ChildLimits, began: float, heard: float) -> None:
    now = time.monotonic()
    if 0 < limits.timeout < now - began:
        raise TrainerFailed(f"the training took longer than timeout = {limits.timeout:g} s", True)
    if 0 < limits.heartbeat < now - heard:
        raise TrainerFailed(f"the trainer said nothing for heartbeat = {limits.heartbeat:g} s", True)


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process and its children; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total
