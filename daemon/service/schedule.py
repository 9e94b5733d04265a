"""Cron expressions of the config, as times that wake the planner."""

from collections.abc import Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from daemon.config.settings import Config


class Schedule:
    """APScheduler, as the planner needs it: a time that came is told once, however late."""

    def __init__(self, at_cron: Callable[[str], None]) -> None:
        self._at_cron = at_cron
        self._scheduler = AsyncIOScheduler(job_defaults={"misfire_grace_time": None, "coalesce": True})

    def start(self, config: Config) -> None:
        """Begin to count time."""
        self._scheduler.start()
        self.reconfigure(config)

    def stop(self) -> None:
        """Count no more."""
        self._scheduler.shutdown(wait=False)

    def reconfigure(self, config: Config) -> None:
        """Wake the planner at the times of every cron expression of the config, and at no others."""
        for job in self._scheduler.get_jobs():
            job.remove()
        for expression in _crons(config):
            self._scheduler.add_job(self._at_cron, CronTrigger.from_crontab(expression), [expression])


def _crons(config: Config) -> set[str]:
    own = [persona.triggers for persona in config.personas.values()]
    special = [trait.triggers for persona in config.personas.values() for trait in persona.traits.values()]
    return {triggers.cron for triggers in (config.triggers, *own, *special)} - {""}
