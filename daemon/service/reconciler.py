"""Runtimes converge: each has a desired revision and an observed one, and the difference is closed for ever."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from daemon.config.settings import Config
from daemon.domain import Genome, RuntimeState
from daemon.errors import LayerError, RuntimeUnreachable
from daemon.genome import genome_file
from daemon.genome.genome_file import GenomeFile, TraitEntry
from daemon.runtimes.embedded import EmbeddedRuntime
from daemon.runtimes.runtime import Observation, Runtime
from daemon.store.store import Store

_EAGER_S = 0.1
"""Between two looks at a runtime that is about to converge, at first."""
_PATIENT_S = 30.0
"""Between two looks at a runtime that has converged, or that does not answer."""

_log = structlog.get_logger()


class Reconciler:
    """Writes the genome files, and watches every runtime until it serves what they say."""

    def __init__(self, store: Store, layers: Path, config: Callable[[], Config]) -> None:
        self._store = store
        self._layers = layers
        self._config = config
        self._wakes: list[asyncio.Event] = []
        self._reconfigured = asyncio.Event()
        self._publishing = asyncio.Lock()
        self._known: dict[str, dict[str, RuntimeState]] = {}

    def wake(self) -> None:
        """A genome moved: look at once."""
        for event in self._wakes:
            event.set()

    def reconfigure(self) -> None:
        """The config changed: begin anew with its runtimes."""
        self._reconfigured.set()

    async def run(self) -> None:
        """Keep closing the difference."""
        while True:
            self._reconfigured.clear()
            await self.publish()
            async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                runtimes = configured(self._config())
                for runtime in runtimes:
                    stack.push_async_callback(runtime.close)
                self._wakes = [asyncio.Event() for _ in runtimes]
                tasks = [
                    group.create_task(self._follow(runtime, wake), name=f"runtime {runtime.name}")
                    for runtime, wake in zip(runtimes, self._wakes, strict=True)
                ]
                await self._reconfigured.wait()
                for task in tasks:
                    task.cancel()

    async def publish(self) -> list[Genome]:
        """Bring every genome file to its genome's revision; what they are now."""
        # One at a time, or an older revision could be written over a newer one.
        async with self._publishing:
            genomes = await self._store.genomes.all()
            for genome in genomes:
                wanted = self._file(genome)
                try:
                    if await asyncio.to_thread(_differs, self._layers, wanted):
                        await asyncio.to_thread(genome_file.write, self._layers, wanted)
                except OSError as error:
                    reason = f"{genome_file.genome_path(self._layers, genome.persona)}: {error.strerror or error}"
                    _log.error("genome.unwritable", persona=genome.persona, revision=genome.revision, reason=reason)
            return genomes

    def _file(self, genome: Genome) -> GenomeFile:
        settings = self._config().persona(genome.persona)
        return GenomeFile(
            persona=genome.persona,
            revision=genome.revision,
            base_model=settings.base_model,
            system_prompt=settings.system_prompt,
            traits={
                trait: TraitEntry(layer=said.layer.id, version=said.layer.version, directory=said.layer.path)
                for trait, said in genome.traits.items()
                if said.layer
            },
        )

    async def _follow(self, runtime: Runtime, wake: asyncio.Event) -> None:
        # What was said before a reload of the config is no news after it.
        known = self._known.setdefault(runtime.name, {})
        pause = _EAGER_S
        while True:
            wake.clear()
            # The file is written by whoever looks first; the same file again is no change.
            states = await self._look(runtime, await self.publish())
            for state in states:
                await self._note(state, known.get(state.persona))
                known[state.persona] = state
            converged = all(state.state == "converged" for state in states)
            pause = _PATIENT_S if converged else min(pause * 1.5, _PATIENT_S)
            try:
                async with asyncio.timeout(pause):
                    await wake.wait()
                pause = _EAGER_S
            except TimeoutError:
                pause = _EAGER_S if converged else pause

    async def _look(self, runtime: Runtime, genomes: list[Genome]) -> list[RuntimeState]:
        if not genomes:
            return []
        observed: dict[str, Observation] = {}
        unreachable = None
        try:
            observed = await runtime.observe()
        except RuntimeUnreachable as error:
            unreachable = str(error)
        states = []
        for genome in genomes:
            seen = observed.get(genome.persona, Observation(None))
            served = seen.revision == genome.revision and seen.error is None
            word = "unreachable" if unreachable else "converged" if served else "converging"
            error_now = unreachable or seen.error
            states.append(RuntimeState(runtime.name, genome.persona, genome.revision, seen.revision, word, error_now))
        return states

    async def _note(self, state: RuntimeState, before: RuntimeState | None) -> None:
        """Write down, and say, what is news."""
        if state == before:
            return
        await self._store.runtimes.record(state)
        log = _log.bind(runtime=state.runtime, persona=state.persona, revision=state.desired)
        if state.state == "converged":
            log.info("runtime.converged")
        elif state.state == "unreachable" and (before is None or before.state != "unreachable"):
            log.warning("runtime.unreachable", reason=state.error)
        elif state.error and state.state == "converging":
            log.warning("runtime.refused", reason=state.error)


def configured(config: Config) -> list[Runtime]:
    """A client for every runtime of the config; with none, for the server at [serve]."""
    token = config.serve.token.get_secret_value()
    if not config.runtimes:
        return [EmbeddedRuntime("embedded", config.serve.url, token)]
    return [
        EmbeddedRuntime(name, runtime.url, runtime.token.get_secret_value() or token, f"runtimes.{name}.token")
        for name, runtime in config.runtimes.items()
    ]


def _differs(layers: Path, wanted: GenomeFile) -> bool:
    try:
        return genome_file.read(genome_file.genome_path(layers, wanted.persona)) != wanted
    except LayerError:
        return True
