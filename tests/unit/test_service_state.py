"""The config of the moment, wishes until they are taken, times that wake, and the note for others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.config.settings import Config
from daemon.domain import Run, RunState, TraitKey
from daemon.learning.planner import Wishes
from daemon.service.notify import Notifier
from daemon.service.schedule import Schedule
from daemon.service.state import LiveConfig, Note, Wishlist
from daemon.store.lock import StoreLock
from daemon.training.engine.job import Alive, Step

Load = Callable[[str], Config]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text("[triggers]\nmin_corrections = 5\n")
    return path


@pytest.fixture
def load(file: Path) -> Load:
    """Saves a text as the config file, and reads it."""

    def loaded(text: str) -> Config:
        file.write_text(text)
        return Config.load(file, {})

    return loaded


@pytest.fixture
def live(file: Path) -> LiveConfig:
    return LiveConfig(Config.load(file, {}))


# The config


def test_a_saved_change_holds_from_now_on(live: LiveConfig, file: Path) -> None:
    file.write_text("[triggers]\nmin_corrections = 7\n")
    with capture_logs() as logs:
        assert live.reload()
    assert live().triggers.min_corrections == 7 and live().source == file
    assert [(log["event"], log["needs_restart"]) for log in logs] == [("config.reloaded", [])]


def test_saving_the_same_again_changes_nothing(live: LiveConfig, file: Path) -> None:
    file.write_text("# a comment\n[triggers]\nmin_corrections = 5\n")
    with capture_logs() as logs:
        assert not live.reload()
    assert [(log["event"], log["changed"]) for log in logs] == [("config.reloaded", False)]


@pytest.mark.parametrize("text", ["[triggers]\nmin_corrections = 0\n", "[trigers]\n", "x = [", None])
def test_an_invalid_file_is_refused_with_a_sentence_and_the_old_config_stays(
    live: LiveConfig, file: Path, text: str | None
) -> None:
    before = live()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with capture_logs() as logs:
        assert not live.reload()
    assert live() is before
    (refused,) = logs
    assert (refused["event"], refused["log_level"]) == ("config.refused", "error") and str(file) in refused["reason"]


def test_what_is_read_at_start_waits_for_a_restart_and_the_rest_does_not(live: LiveConfig, file: Path) -> None:
    store = live().store
    file.write_text(
        '[store]\nurl = "sqlite:///elsewhere/x.db"\n[serve]\nport = 9999\n[triggers]\nmin_corrections = 9\n'
    )
    with capture_logs() as logs:
        assert live.reload()
    assert live().store == store and live().serve.port == 8765 and live().triggers.min_corrections == 9
    assert logs[0]["needs_restart"] == ["store.url", "serve.port"]


# Wishes


def test_wishes_are_taken_once_and_wake_at_once() -> None:
    woken: list[int] = []
    wishlist = Wishlist(lambda: woken.append(1))
    assert wishlist.take() == Wishes()
    wishlist.at("0 3 * * *")
    wishlist.at("0 4 * * *")
    wishlist.everything()
    assert len(woken) == 3
    taken = wishlist.take()
    assert taken.cron == {"0 3 * * *", "0 4 * * *"} and taken.asked_by(TraitKey("any", "body")) == "SIGUSR1"
    assert wishlist.take() == Wishes()


# Times


async def test_cron_times_of_every_section_wake_and_leave_with_the_config(load: Load) -> None:
    config = load(
        '[triggers]\ncron = "0 3 * * *"\n[personas.ada.triggers]\ncron = "0 4 * * *"\n'
        '[personas.ada.traits.rust.triggers]\ncron = "*/5 * * * mon"\n[personas.bob.triggers]\ncron = "0 3 * * *"\n'
    )
    told: list[str] = []
    schedule = Schedule(told.append)
    schedule.start(config)
    try:
        jobs = {str(job.args[0]): job for job in schedule._scheduler.get_jobs() if job.args}
        assert jobs.keys() == {"0 3 * * *", "0 4 * * *", "*/5 * * * mon"}
        assert {job.misfire_grace_time for job in jobs.values()} == {None}, "however late, a time that came is told"
        for job in jobs.values():
            job.func(*job.args)
        assert sorted(told) == sorted(jobs)
        schedule.reconfigure(load('[triggers]\ncron = "0 5 * * *"\n'))
        assert [job.args for job in schedule._scheduler.get_jobs()] == [("0 5 * * *",)]
    finally:
        schedule.stop()


# The note


def test_the_note_tells_of_the_daemon_and_of_each_run_while_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    lock = StoreLock(tmp_path / "persona.db")
    note = Note(lock, Notifier())
    note.acquire()
    run = Run("r1", TraitKey("ada", "rust"), RunState.TRAINING, "", 1, 1, 1, 0, 0.0)
    note.state("ready")
    note._written = -1e9
    note.progress(run, Alive("looking around"))
    read = StoreLock(tmp_path / "persona.db").note()
    assert read and read["state"] == "ready" and read["progress"]["r1"] == {"doing": "looking around"}
    said = []
    for at in (Step(4, 30, 0.8, 9.0), Alive("probing the candidate")):
        note._written = -1e9
        note.progress(run, at)
        read = lock.note()
        assert read
        said.append((read["progress"]["r1"]["step"], read["progress"]["r1"]["doing"]))
    assert said == [(4, None), (4, "probing the candidate")]
    note.progress(run, None)
    note.release()
    read = lock.note()
    assert read and (read["state"], read["progress"]) == ("stopped", {}) and not lock.held()


def test_a_note_that_a_full_disk_does_not_take_ends_nothing_and_is_told_once(tmp_path: Path) -> None:
    lock = StoreLock(tmp_path / "persona.db")
    note = Note(lock, Notifier())
    note.acquire()
    assert lock._descriptor is not None
    with Path("/dev/full").open("wb") as full, capture_logs() as logs:
        os.dup2(full.fileno(), lock._descriptor)
        note.state("ready")
        note.state("draining")
        note.release()
    assert [(log["event"], log["log_level"]) for log in logs] == [("note.unwritable", "warning")]
    assert "No space left on device" in logs[0]["reason"]
