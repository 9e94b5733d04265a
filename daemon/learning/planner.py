"""What is due becomes runs: the planner asks the store what is pending, and claims what must not wait."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from daemon.config.settings import Config, Resolved
from daemon.domain import Backlog, Purpose, Run, RunState, TraitKey
from daemon.genome.directories import LayerDirectories
from daemon.learning import announcing
from daemon.learning.hindrance import hindrance
from daemon.learning.relearning import Relearning
from daemon.learning.triggers import Circumstances, Due, decide
from daemon.store.store import Store

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Judgement:
    """One trait with something pending: what there is, and whether it is due."""

    backlog: Backlog
    due: Due


@dataclass(frozen=True, slots=True)
class Plan:
    """What one look at the store led to; `again_in` is when the next is worth it, in seconds."""

    runs: list[Run]
    judgements: list[Judgement]
    again_in: float | None


@dataclass(frozen=True, slots=True)
class Ask:
    """Who wants traits trained now, and which; None is any."""

    by: str
    persona: str | None = None
    trait: str | None = None

    def covers(self, key: TraitKey) -> bool:
        """Whether it means this trait, too."""
        return self.persona in (None, key.persona) and self.trait in (None, key.trait)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What makes traits due besides their backlog: cron times that came, and what admins asked for."""

    cron: frozenset[str] = frozenset()
    """Cron expressions of which a time has come."""
    asks: tuple[Ask, ...] = ()
    hurried: bool = False
    """There will be no later look: no burst is waited for."""

    def asked_by(self, key: TraitKey) -> str:
        """Who asked for this trait; empty when nobody did."""
        return next((ask.by for ask in self.asks if ask.covers(key)), "")


@dataclass(slots=True)
class _Growth:
    """What the planner remembers of one backlog, by the monotonic clock: a clock that jumps ends no burst."""

    pending: int
    grown_at: float
    due_since: float | None = None
    cron: bool = False
    """A cron time came while it could not be trained; it is owed."""
    asked_by: str = ""
    """Who asked while a run of it was under way; a run of what came later is owed."""


@dataclass(slots=True)
class Planner:
    """Looks at every backlog and plans runs for what is due."""

    store: Store
    layers: LayerDirectories
    config: Callable[[], Config]
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    _tried: dict[str, Resolved] = field(default_factory=dict)
    """By live run, the settings of its last attempt, as far as this process has seen it."""
    _growth: dict[TraitKey, _Growth] = field(default_factory=dict)
    _planning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _relearning: Relearning = field(init=False)

    def __post_init__(self) -> None:
        self._relearning = Relearning(self.store, self.layers, self.config)

    async def judge(self) -> list[Judgement]:
        """Every trait with a backlog, and whether it is due by itself; changes nothing."""
        return await self._judge(await self.store.corrections.backlog(), Wishes())

    @property
    def owes(self) -> bool:
        """Whether somebody asked for what could not be planned yet, because a run of it was under way."""
        return any(growth.asked_by for growth in self._growth.values())

    async def plan(self, wishes: Wishes) -> Plan:
        """Claim what is due for new runs."""
        # One look at a time: who answers admins may look, too.
        async with self._planning:
            return await self._plan(wishes)

    async def _plan(self, wishes: Wishes) -> Plan:
        await self._hurry(wishes)
        backlogs = await self.store.corrections.backlog()
        self._remember(backlogs)
        judgements = await self._judge(backlogs, wishes)
        runs = []
        for judgement in judgements:
            key, growth = judgement.backlog.key, self._growth[judgement.backlog.key]
            growth.cron = judgement.due.postponed and (growth.cron or self._cron_came(key, wishes))
            growth.asked_by = (growth.asked_by or wishes.asked_by(key)) if judgement.due.postponed else ""
            if judgement.due.due:
                runs += await self._claim(key, judgement.due.why)
                growth.due_since = None
            elif judgement.due.burst and growth.due_since is None:
                growth.due_since = self.monotonic()
        lost = await self._relearning.look(lambda key: bool(wishes.asked_by(key)), wishes.hurried)
        for key, intent in lost.items():
            run = await self.store.plans.relearn(key, intent, self.clock())
            runs += self._announced(run, self.config().persona(*key))
        waits = [judgement.due.again_in for judgement in judgements if judgement.due.again_in is not None]
        if self._relearning.again_in is not None:
            waits.append(self._relearning.again_in)
        return Plan(runs, judgements, min(waits, default=None))

    def suspect(self, key: TraitKey) -> None:
        """See at the next look whether a trait has to learn something again."""
        self._relearning.suspect(key)

    async def _hurry(self, wishes: Wishes) -> None:
        """Let no run wait for its next attempt that is asked for, or that was last tried under other settings."""
        tried, self._tried = self._tried, {}
        for run in await self.store.runs.live():
            settings, before = self.config().persona(*run.key), tried.get(run.id)
            if run.not_before > self.clock() and (settings != before or wishes.asked_by(run.key)):
                await self.store.runs.hurry(run)
            # Who is at work goes on under the settings that it began with.
            self._tried[run.id] = before if before and run.state is not RunState.PLANNED else settings

    def _cron_came(self, key: TraitKey, wishes: Wishes) -> bool:
        return self.config().persona(key.persona, key.trait).triggers.cron in wishes.cron

    async def _claim(self, key: TraitKey, why: str) -> list[Run]:
        for reason, ids in (await self.store.plans.refuse_misnamed(key)).items():
            announcing.set_aside(_log.bind(persona=key.persona, trait=key.trait), ids, reason)
        settings = self.config().persona(key.persona, key.trait)
        run = await self.store.plans.learn(key, why, settings.settings_hash, self.clock())
        return self._announced(run, settings)

    def _announced(self, run: Run | None, settings: Resolved) -> list[Run]:
        if run is None:
            return []
        self._tried[run.id] = settings
        announcing.planned(run)
        return [run]

    async def _judge(self, backlogs: Collection[Backlog], wishes: Wishes) -> list[Judgement]:
        busy = {run.key for run in await self.store.runs.live()}
        genomes = {genome.persona: genome for genome in await self.store.genomes.all()}
        judgements = []
        for backlog in backlogs:
            key = backlog.key
            settings = self.config().persona(key.persona, key.trait)
            hinders = hindrance(key, settings, genomes.get(key.persona))
            if key in busy:
                due = Due(False, self._under_way(key, wishes), under_way=True)
            elif hinders:
                due = Due(False, hinders, hindered=True)
            else:
                due = decide(backlog, settings.triggers, self.clock(), await self._around(backlog, settings, wishes))
            judgements.append(Judgement(backlog, due))
        return judgements

    def _under_way(self, key: TraitKey, wishes: Wishes) -> str:
        growth = self._growth.get(key)
        owed = wishes.asked_by(key) or (growth and growth.asked_by)
        return "a run of it is under way" + ("; what came later is trained after it" if owed else "")

    def _remember(self, backlogs: Collection[Backlog]) -> None:
        """Note which backlogs grew; a trait that has none any more is forgotten."""
        now = self.monotonic()
        for backlog in backlogs:
            known = self._growth.get(backlog.key)
            if known is None:
                self._growth[backlog.key] = _Growth(backlog.pending, now)
            elif backlog.pending != known.pending:
                known.pending, known.grown_at = backlog.pending, now
        for key in set(self._growth) - {backlog.key for backlog in backlogs}:
            del self._growth[key]

    async def _around(self, backlog: Backlog, settings: Resolved, wishes: Wishes) -> Circumstances:
        growth = self._growth.get(backlog.key)
        now = self.monotonic()
        return Circumstances(
            last=await self.store.runs.last_ended(backlog.key, Purpose.LEARN),
            settings_hash=settings.settings_hash,
            cron=settings.triggers.cron in wishes.cron or (growth is not None and growth.cron),
            asked_by=wishes.asked_by(backlog.key) or (growth.asked_by if growth else ""),
            quiet_for=now - growth.grown_at if growth and not wishes.hurried else float("inf"),
            waited=now - growth.due_since if growth and growth.due_since is not None else 0.0,
        )
