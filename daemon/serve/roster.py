"""Who is served: every persona, the revision it speaks with now, and which requests are under way."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from daemon.genome.genome_file import GenomeFile
from daemon.genome.persona_genome import Lease, PersonaGenome
from daemon.runtimes.embedded import GenomeReport
from daemon.serve.engine import Engine
from daemon.serve.engines import Engines
from daemon.serve.names import BASE, Wanted, wanted
from daemon.serve.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Speaker:
    """What the config says of a persona; its genome file, where there is one, says it anew."""

    base_model: str
    system_prompt: str = ""


class Served:
    """One persona as it is served now; read and changed on the event loop only."""

    def __init__(self, persona: str) -> None:
        self.persona = persona
        self.engine: Engine | None = None
        self.view: PersonaGenome | None = None
        self.error: str | None = None
        self.in_flight: Counter[str] = Counter()
        self.settled = asyncio.Event()
        """Whether its genome file, where there is one, has been tried once: nobody is answered before."""

    @property
    def genome(self) -> GenomeFile | None:
        """The revision that every new request is answered with."""
        return self.view.genome if self.view else None


@dataclass(slots=True)
class Turn:
    """One request's say: who answers it is settled here, once, and held until it is closed."""

    engine: Engine
    persona: str
    label: str
    """TRAIT@VERSION, or base."""
    revision: int
    system_prompt: str
    layer: str | None
    lease: Lease | None
    served: Served | None

    @property
    def fingerprint(self) -> str:
        """Changes when the base model or the layer is another one."""
        facts = f"{self.engine.shelf.fingerprint} {self.layer or ''}"
        return f"fp_{hashlib.sha256(facts.encode()).hexdigest()[:8]}"

    def open(self) -> None:
        """Count this request as under way."""
        if self.served is not None:
            self.served.in_flight[self.label] += 1

    def close(self) -> None:
        """Let go of the layer, once."""
        served, self.served = self.served, None
        if served is not None:
            served.in_flight[self.label] -= 1
            served.in_flight += Counter()
        if self.lease is not None:
            self.lease.release()
            self.engine.trim()


class Roster:
    """Resolves model names, and flips personas from one revision to the next."""

    def __init__(
        self,
        engines: Engines,
        default: Speaker,
        configured: Mapping[str, Speaker],
        known_personas: Callable[[], Awaitable[Collection[str]]] | None = None,
    ) -> None:
        self.engines = engines
        self.default = default
        self.configured = dict(configured)
        self._known_personas = known_personas
        self._once_known: frozenset[str] = frozenset()
        self._served = {persona: Served(persona) for persona in configured}
        self._opened = asyncio.Event()

    def configure(self, default: Speaker, configured: Mapping[str, Speaker]) -> None:
        """The config says something else now; what a genome file says of a persona still holds."""
        gone = self.configured.keys() - configured.keys()
        self.default, self.configured = default, dict(configured)
        for persona in configured:
            self.served(persona)
        for persona in gone:
            if self._served[persona].view is None:
                self.drop(persona)
        self.load_missing()

    def opened(self) -> None:
        """Say that every genome file that is there has been seen."""
        self._opened.set()

    def served(self, persona: str) -> Served:
        """The state of a persona, begun when it is new."""
        served = self._served.get(persona)
        if served is None:
            served = self._served[persona] = Served(persona)
            if self._opened.is_set():
                # It has been answered as its base so far, and goes on so until its first revision is loaded.
                served.settled.set()
        return served

    def settled(self, persona: str) -> None:
        """Say that a persona's genome file has been tried; nothing to say when both are gone."""
        if persona in self._served:
            self._served[persona].settled.set()

    def everyone(self) -> list[Served]:
        """Every persona of the config and of the genome files, by name."""
        return [self._served[persona] for persona in sorted(self._served)]

    def speaker(self, persona: str) -> Speaker:
        """What the config says of a persona."""
        return self.configured.get(persona, self.default)

    def bases(self) -> list[str]:
        """The base models that the config names."""
        named = [self.default, *self.configured.values()]
        return sorted({speaker.base_model for speaker in named if speaker.base_model})

    def load_missing(self) -> None:
        """Begin to load, or to try again, the base models that somebody cannot be answered without."""
        for base in self._needed():
            self.engines.start(base)

    def _needed(self) -> list[str]:
        """The base models of those who have no revision in memory."""
        # Who has one needs no other; the config may name what is no longer there.
        waiting = {self.speaker(served.persona).base_model for served in self.everyone() if served.engine is None}
        return sorted(waiting if self._served else {self.default.base_model})

    def problems(self) -> list[str]:
        """Why this server is not ready yet, in sentences."""
        if not self._opened.is_set():
            return ["The genome files have not been read yet."]
        found = [problem for base in self._needed() if (problem := self.engines.problem(base))]
        waiting = [served.persona for served in self.everyone() if not served.settled.is_set()]
        return found + [f"The layers of {persona} are being loaded." for persona in waiting]

    def shortfalls(self) -> list[str]:
        """Who is answered, but not as the newest genome file asks for; why is not everybody's business."""
        behind = [served.persona for served in self.everyone() if served.error]
        return [f"{persona} is not served as its genome file says; GET /v1/genomes says why." for persona in behind]

    def reports(self) -> list[GenomeReport]:
        """What GET /v1/genomes says."""
        return [self._report(served) for served in self.everyone()]

    async def adopt(self, genome: GenomeFile) -> None:
        """Load a revision beside the one in use, then flip; raises PersonaError and changes nothing when it cannot."""
        engine = await self.engines.get(genome.base_model)
        served = self.served(genome.persona)
        same = served.view is not None and served.view.shelf is engine.shelf
        view = served.view if same and served.view else PersonaGenome(genome.persona, engine.shelf)
        read = await asyncio.to_thread(view.read, genome)
        await engine.call(partial(view.load, read.genome, read.layers))
        before = served.view
        view.adopt(read.genome)
        # A trait whose layer is of another base speaks as the base.
        served.engine, served.view, served.error = engine, view, " ".join(read.stale) or None
        if before is not None and before is not view:
            before.shelf.name(genome.persona, ())

    def drop(self, persona: str) -> None:
        """A persona's genome file is gone: it speaks as its base from now on."""
        served = self.served(persona)
        if served.view is not None:
            served.view.shelf.name(persona, ())
        served.engine = served.view = served.error = None
        if persona not in self.configured and not served.in_flight:
            del self._served[persona]

    async def turn(self, model: str) -> Turn:
        """Settle who answers a request for this model name; raises Refusal, or PersonaError."""
        await self._opened.wait()
        base = self._base_named(model)
        if base is not None:
            return Turn(await self.engines.get(base), "", BASE, 0, "", None, None, None)
        asked = wanted(model)
        if asked is None or not await self._knows(asked.persona):
            raise unknown_model(model)
        served = self._served.get(asked.persona)
        if served is not None:
            await served.settled.wait()
        fallback = None
        if served is None or served.engine is None:
            fallback = await self.engines.get(self.speaker(asked.persona).base_model)
        return await self._settle(asked, fallback)

    async def _settle(self, asked: Wanted, fallback: Engine | None) -> Turn:
        """From the look at what is served to the count of this request nothing else happens: no flip, no eviction."""
        served = self._served.get(asked.persona) or Served(asked.persona)
        genome = served.genome
        engine = served.engine or fallback
        if engine is None:
            raise Refusal(503, f"{asked.persona} is changing its base model; ask again in a moment.")
        prompt = genome.system_prompt if genome else self.speaker(asked.persona).system_prompt
        path, label = self._layer(asked, served)
        lease = engine.shelf.lease(path) if path else None
        turn = Turn(engine, asked.persona, label, genome.revision if genome else 0, prompt, path, lease, served)
        turn.open()
        try:
            if path and not engine.shelf.holds(path):
                layer = await asyncio.to_thread(engine.shelf.read, path)
                await engine.call(partial(engine.shelf.put, layer))
        except BaseException:
            turn.close()
            raise
        return turn

    def _layer(self, asked: Wanted, served: Served) -> tuple[str | None, str]:
        """The path of the layer that answers, and what it is called; raises Refusal."""
        if asked.trait is None:
            return None, BASE
        entry = served.genome.traits.get(asked.trait) if served.genome else None
        if entry is not None and asked.version in (None, entry.version):
            return entry.directory, f"{asked.trait}@{entry.version}"
        if asked.version is None:
            if served.genome is None and served.error:
                raise Refusal(503, served.error)
            return None, BASE
        path = self.engines.directories.find(asked.persona, asked.trait, asked.version)
        if path is None:
            sentence = f"{asked.persona}:{asked.trait} has no version {asked.version}."
            raise Refusal(404, sentence, "model", "model_not_found")
        return path, f"{asked.trait}@{asked.version}"

    async def has(self, model: str) -> bool:
        """Whether requests may name this model; loads nothing; raises PersonaError when nobody can say."""
        await self._opened.wait()
        if self._base_named(model) is not None:
            return True
        asked = wanted(model)
        if asked is None or not await self._knows(asked.persona):
            return False
        try:
            self._layer(asked, self._served.get(asked.persona) or Served(asked.persona))
        except Refusal as refusal:
            return refusal.status != 404
        return True

    async def _knows(self, persona: str) -> bool:
        if persona in self._served or persona in self._once_known:
            return True
        if self._known_personas is None:
            return False
        # A persona does not vanish, so who is known already is not asked for again, nor lost while nobody can be asked.
        self._once_known |= frozenset(await self._known_personas())
        return persona in self._once_known

    def base_names(self) -> dict[str, str]:
        """Every base model by the name that requests use: a folder goes by its last part."""
        used = [*self.bases(), *(served.genome.base_model for served in self.everyone() if served.genome)]
        return {Path(base).name if Path(base).is_absolute() else base: base for base in used}

    def _base_named(self, model: str) -> str | None:
        if model in self._served:
            return None
        names = self.base_names()
        return names.get(model) or (model if model in names.values() else None)

    def _report(self, served: Served) -> GenomeReport:
        genome = served.genome
        return GenomeReport(
            persona=served.persona,
            revision=genome.revision if genome else 0,
            base_model=genome.base_model if genome else self.speaker(served.persona).base_model,
            traits={trait: entry.version for trait, entry in genome.traits.items()} if genome else {},
            in_flight=dict(served.in_flight),
            error=served.error,
        )


def unknown_model(name: str) -> Refusal:
    """What is answered where no model goes by a name."""
    return Refusal(404, f"There is no model {name!r}; GET /v1/models lists them.", "model", "model_not_found")
