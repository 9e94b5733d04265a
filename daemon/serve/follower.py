"""Follows the genome files: what they name is verified, loaded beside the old, and flipped to."""

import asyncio
import re
import time
from pathlib import Path
from typing import Final

import structlog
from watchfiles import awatch

from daemon.errors import PersonaError
from daemon.genome import genome_file
from daemon.genome.genome_file import PERSONA_ID
from daemon.serve.roster import Roster

BEAT: Final = 5.0
"""Seconds between looks when nothing is heard of; a refused file is tried again then."""
MISSING: Final = 0.25
"""Seconds between looks for a directory that is not there yet."""


class Follower:
    """Keeps what a roster serves equal to the files below `<layers>/genomes`."""

    def __init__(self, root: Path, roster: Roster, beat: float = BEAT) -> None:
        self._root = root
        self._directory = genome_file.genomes_directory(root)
        self._roster = roster
        self._beat = beat
        self._tried: dict[str, bytes | None] = {}
        self._refused: dict[str, float] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow until cancelled; the first look is taken before anything is waited for."""
        try:
            while True:
                try:
                    self._look()
                    self._roster.opened()
                    await self._watch()
                except FileNotFoundError:
                    # Not there yet, or gone between two looks, as while a disk is being mounted.
                    await asyncio.sleep(min(MISSING, self._beat))
        finally:
            for task in self._busy.values():
                task.cancel()
            await asyncio.gather(*self._busy.values(), return_exceptions=True)

    async def _watch(self) -> None:
        """Look at every change and beat until the directory is another one; raises FileNotFoundError without one."""
        inode = self._directory.stat().st_ino
        beat = int(self._beat * 1000)
        async for _ in awatch(
            self._directory, watch_filter=None, debounce=50, step=10, rust_timeout=beat, yield_on_timeout=True,
            recursive=False, ignore_permission_denied=True,
        ):  # fmt: skip
            self._look()
            if self._directory.stat().st_ino != inode:
                return

    def _look(self) -> None:
        """Begin to follow every persona whose file is not what was tried last."""
        names = self._personas()
        for persona in names | (set(self._tried) if self._directory.is_dir() else set()):
            if persona not in self._busy and self._to_try(persona) is not None:
                self._roster.served(persona)
                task = asyncio.create_task(self._follow(persona), name=f"follow {persona}")
                self._busy[persona] = task
        for served in self._roster.everyone():
            if served.persona not in names:
                served.settled.set()
        self._roster.load_missing()

    def _personas(self) -> set[str]:
        return {path.stem for path in self._directory.glob("*.json") if re.fullmatch(PERSONA_ID, path.stem)}

    def _to_try(self, persona: str) -> bytes | None:
        """The content of a persona's file if it wants a try; empty when the file is gone."""
        content = _content(genome_file.genome_path(self._root, persona))
        if not content and not self._directory.is_dir():
            # The whole directory is gone, as while a disk is being mounted: that says nothing of a persona.
            return None
        refused = self._refused.get(persona)
        again = refused is not None and time.monotonic() - refused >= self._beat
        if content == (self._tried.get(persona) or b"") and not again:
            return None
        return content

    async def _follow(self, persona: str) -> None:
        """Try a persona's file until the one last tried is the one that lies there."""
        try:
            while (content := self._to_try(persona)) is not None:
                self._tried[persona] = content
                await self._try(persona, gone=not content)
        finally:
            self._roster.settled(persona)
            del self._busy[persona]

    async def _try(self, persona: str, gone: bool) -> None:
        began = time.monotonic()
        if gone:
            self._tried.pop(persona)
            self._refused.pop(persona, None)
            self._roster.drop(persona)
            structlog.get_logger().info("genome.dropped", persona=persona)
            return
        served = self._roster.served(persona)
        told = served.error
        try:
            genome = genome_file.read(genome_file.genome_path(self._root, persona))
            await self._roster.adopt(genome)
        except PersonaError as error:
            self._refuse(persona, str(error))
        except Exception as error:  # noqa: BLE001 - one persona's trouble must not end the following of the others
            self._refuse(persona, f"The genome of {persona} cannot be served; the server's log says more.", error)
        else:
            self._refused.pop(persona, None)
            seconds = round(time.monotonic() - began, 3)
            structlog.get_logger().info("genome.served", persona=persona, revision=genome.revision, seconds=seconds)
            if served.error not in (None, told):
                structlog.get_logger().warning("genome.stale", persona=persona, reason=served.error)

    def _refuse(self, persona: str, sentence: str, surprise: Exception | None = None) -> None:
        served = self._roster.served(persona)
        if served.error != sentence:
            structlog.get_logger().warning("genome.refused", persona=persona, reason=sentence, exc_info=surprise)
        served.error = sentence
        self._refused[persona] = time.monotonic()


def _content(path: Path) -> bytes:
    """What a file holds; nothing when it is gone. What cannot be read is still something, for the refusal to name."""
    try:
        return path.read_bytes() or b" "
    except FileNotFoundError:
        return b""
    except OSError:
        return b" "
