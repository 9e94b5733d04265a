"""What the units promise, step by step, on a real systemd; run inside a systemd box, it prints one JSON line a step."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

DAEMON, SERVE = "persona-daemon.service", "persona-serve.service"
CONFIG = Path("/etc/persona-daemon/config.toml")
STATE = Path("/var/lib/persona")
STORE = STATE / "store" / "persona.db"
DROP_IN = Path(f"/etc/systemd/system/{DAEMON}.d/test.conf")
URL = "http://127.0.0.1:8765"
PERSONA, TRAIT, OTHER = "ada", "town-facts", "more-facts"
MOST_EXPOSED = 1.5
WATCHDOG_S = 20
"""Not much for who waits for it, but more than a daemon is ever held up by what else the machine does."""
PATIENCE_S = 600.0
"""For what takes a moment, or a training at most, where nobody else is at work."""
NORMAL, ENDLESS = ('policy = "until-learned"', "epochs = 3"), ('policy = "fixed"', "epochs = 100000")
"""Lines of the config: with the latter a training is never over before a step is done with it."""

Event = dict[str, Any]
T = TypeVar("T")


def run(*command: str, code: int = 0, said_to: str = "") -> str:
    """Everything a command prints; it must end with `code`."""
    done = subprocess.run(
        command,
        input=said_to,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == code, f"{' '.join(command)} ended with {done.returncode}: {done.stdout}"
    return done.stdout.strip()


def wait_for(what: str, look: Callable[[], T]) -> T:
    """The first truthy answer of `look`; fails when it does not come."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.05)
    return found


def journal(unit: str = DAEMON) -> list[str]:
    """The lines of a unit's journal, systemd's own among them."""
    return run("journalctl", "--no-pager", "-o", "cat", "-u", unit).splitlines()


def events(since: int = 0) -> list[Event]:
    """The daemon's events, from a line of its journal on."""
    return [json.loads(line) for line in journal()[since:] if line.startswith("{")]


def event(name: str, since: int, **fields: Any) -> Event:
    """The first event of a name, with these fields, from a line of the journal on; fails when it does not come."""

    def look() -> list[Event]:
        return [said for said in events(since) if said["event"] == name and fields.items() <= said.items()]

    return wait_for(f"{name} {fields or ''}", look)[0]


def edit(before: tuple[str, ...], after: tuple[str, ...]) -> int:
    """Save config.toml with some lines changed, whole at once; the length of the daemon's journal before."""
    text, seen, owner = CONFIG.read_text(encoding="utf-8"), len(journal()), CONFIG.stat()
    for old, new in zip(before, after, strict=True):
        assert text.count(f"\n{old}\n") == 1, old
        text = text.replace(f"\n{old}\n", f"\n{new}\n")
    aside = CONFIG.with_name("edited")
    shutil.copy(CONFIG, aside)
    os.chown(aside, owner.st_uid, owner.st_gid)
    aside.write_text(text, encoding="utf-8")
    aside.rename(CONFIG)
    return seen


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", "-p", name, unit)


def active(unit: str) -> bool:
    """Whether a unit runs and is ready."""
    return shown(unit, "ActiveState") == "active"


def sql(statement: str, user: str = "host", code: int = 0) -> str:
    """What the sqlite3 command prints, run by a user."""
    command = ("sqlite3", "-bail", "-cmd", ".timeout 60000", str(STORE))
    identity = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
    return run(*identity, *command, code=code, said_to=statement)


def insert(trait: str, pairs: list[tuple[str, str]]) -> str:
    """One transaction that writes corrections as the contract has them."""

    def row(question: str, answer: str) -> str:
        texts = (PERSONA, trait, question, "I do not know.", answer)
        return "(" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + ")"

    return (
        "INSERT INTO training_corrections"
        " (persona_id, trait_type, original_context, original_response, expected_response) VALUES "
        + ", ".join(row(question, answer) for question, answer in pairs)
        + ";"
    )


def http(path: str, body: Any = None) -> Any:
    """What the server answers; raises OSError when that is no success."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        return json.load(reply)


def ready() -> bool:
    """Whether the server says that it is."""
    try:
        return bool(http("/readyz"))
    except OSError:
        return False


def processes(user: str) -> str:
    """The processes of a user."""
    done = subprocess.run(["pgrep", "-a", "-u", user], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip()


class Scenario:
    """The steps, in order; each answers in a sentence what it saw, or fails."""

    def __init__(self) -> None:
        given = json.loads(Path("/opt/bound/given/corrections.json").read_text(encoding="utf-8"))
        self.learn: list[tuple[str, str]] = given["learn"]
        self.more: list[tuple[str, str]] = given["more"]
        self.seen = 0
        """Lines of the daemon's journal when the step began."""

    def installs(self) -> str:
        """`systemd/install`, and again with `--now`: the second time keeps what is there."""
        # Short times, because the units' own are for patient people.
        DROP_IN.parent.mkdir()
        DROP_IN.write_text(f"[Service]\nRestartSec=200ms\nWatchdogSec={WATCHDOG_S}s\nCPUWeight=100\n", encoding="utf-8")
        command = ("/opt/bound/project/systemd/install", "--venv", "/opt/venv", "--base-model", "/opt/base")
        first = run(*command)
        assert "start with: systemctl start" in first and not active(DAEMON), first
        modes = {path: run("stat", "-c", "%A %U:%G", str(path)) for path in (STORE.parent, STATE / "layers", CONFIG)}
        assert list(modes.values()) == [
            "drwxrws--- persona:persona",
            "drwx------ persona:persona",
            "-rw-r----- root:persona",
        ]
        # And neither it nor its training steps back behind what else the machine does.
        edit(("nice = 10", "anchors = 1024", *NORMAL), ("nice = 0", "anchors = 0", *ENDLESS))
        again = run(*command, "--now")
        assert "keeping /etc/persona-daemon/config.toml" in again
        return again.replace("install: ", "").replace("\n", "; ")

    def starts(self) -> str:
        """Both are active, and say how they fare."""
        event("daemon.ready", 0)
        assert active(DAEMON) and active(SERVE)
        status = wait_for("a status", lambda: shown(DAEMON, "StatusText"))
        assert "0 corrections pending" in status, status
        wait_for("/readyz", ready)
        return f"{status!r}, {shown(SERVE, 'StatusText')!r}, /readyz answers"

    def verifies(self) -> str:
        """`systemd-analyze verify` prints nothing."""
        printed = run("systemd-analyze", "verify", DAEMON, SERVE)
        assert printed == "", printed
        return "nothing printed"

    def is_hardened(self) -> str:
        """`systemd-analyze security` finds little to see."""
        scores = {}
        for unit in (DAEMON, SERVE):
            printed = run("systemd-analyze", "security", "--no-pager", f"/etc/systemd/system/{unit}", "--offline=true")
            found = re.search(r"exposure level for \S+: ([\d.]+)", printed)
            assert found, printed
            scores[unit] = float(found[1])
        assert max(scores.values()) <= MOST_EXPOSED, scores
        return str(scores)

    def the_group_writes(self) -> str:
        """A member of the group inserts, somebody else cannot."""
        for user in ("host", "stranger"):
            run("useradd", "--user-group", user)
        run("usermod", "-aG", "persona", "host")
        refused = sql(insert(TRAIT, self.learn), user="stranger", code=1)
        assert "unable to open database" in refused, refused
        sql(insert(TRAIT, self.learn))
        event("corrections.seen", self.seen, corrections=len(self.learn))
        return f"a member inserted {len(self.learn)}; a stranger was told: {refused.splitlines()[-1]}"

    def survives_a_kill(self) -> str:
        """Killed in the middle of a training, it is started again, and the corrections are used once."""
        event("run.training", 0)
        # What it trains it trains to no end; who takes over finds a config that comes to one.
        edit(ENDLESS, NORMAL)
        run("systemctl", "kill", "-s", "SIGKILL", "--kill-whom=main", DAEMON)
        recovered = event("run.recovered", self.seen)
        wait_for("active", lambda: active(DAEMON))
        assert shown(DAEMON, "NRestarts") == "1"
        used = event("corrections.used", self.seen)
        event("genome.revised", self.seen, revision=1, version=1)
        assert used["corrections"] == len(self.learn)
        counted = sql("SELECT count(*), count(DISTINCT correction_id) FROM run_corrections WHERE outcome = 'used'")
        assert counted == "10|10", counted
        assert [said["event"] for said in events()].count("corrections.used") == 1
        return f"NRestarts=1, recovered from {recovered['state']}, attempt {recovered['attempt']}, 10 used once"

    def the_server_follows(self) -> str:
        """The server answers with the new layer, and the daemon knows."""
        event("runtime.converged", 0, persona=PERSONA, revision=1)
        genome = next(genome for genome in http("/v1/genomes")["genomes"] if genome["persona"] == PERSONA)
        assert (genome["revision"], genome["traits"]) == (1, {TRAIT: 1}), genome
        question, wanted = self.learn[0]
        asked = {"model": f"{PERSONA}:{TRAIT}", "messages": [{"role": "user", "content": question}], "temperature": 0}
        answer = http("/v1/chat/completions", asked)["choices"][0]["message"]["content"]
        assert answer == wanted
        return f"revision 1 is served, and answers {answer!r}"

    def reloads(self) -> str:
        """`systemctl reload` after an edit; an invalid edit is refused, and all goes on."""
        pid, ten, twelve, many = (shown(DAEMON, "MainPID"), *(f"min_corrections = {n}" for n in ("10", "12", '"many"')))
        # Saving alone has it reloaded, too, if the watcher of the file is sooner; so one edit may be told of twice.
        seen = edit((ten,), (twelve,))
        run("systemctl", "reload", DAEMON)
        event("config.reloaded", seen)
        seen = edit((twelve,), (many,))
        run("systemctl", "reload", DAEMON)
        refused = event("config.refused", seen)
        # And with what is to be trained from here on, nobody is done.
        seen = edit((many, *NORMAL), (ten, *ENDLESS))
        run("systemctl", "reload", DAEMON)
        event("config.reloaded", seen, changed=True)
        assert active(DAEMON) and shown(DAEMON, "MainPID") == pid
        return f"reloaded; refused: {refused['reason']}; still active"

    def trains_when_told(self) -> str:
        """SIGUSR1 trains the three that no threshold would."""
        sql(insert(OTHER, self.more))
        seen = event("corrections.seen", self.seen, trait=OTHER, corrections=3, due=False)
        trainer = run("pgrep", "-f", "daemon.training.engine")
        assert "run.planned" not in [said["event"] for said in events(self.seen)]
        # To every process of the unit, as systemctl does unless told otherwise: the warm trainer is not hurt by it.
        run("systemctl", "kill", "-s", "SIGUSR1", DAEMON)
        planned = event("run.planned", self.seen, trait=OTHER)
        event("run.training", self.seen, trait=OTHER)
        assert run("pgrep", "-f", "daemon.training.engine") == trainer
        return f"not due ({seen['why']}); then planned: {planned['reason']}"

    def is_watched(self) -> str:
        """A daemon that hangs in the middle of a training is killed and started again."""
        run("systemctl", "kill", "-s", "SIGSTOP", "--kill-whom=main", DAEMON)
        wait_for("a restart", lambda: shown(DAEMON, "NRestarts") == "2")
        said = wait_for("its reason", lambda: [line for line in journal()[self.seen :] if "Watchdog timeout" in line])[
            0
        ]
        event("run.recovered", self.seen, trait=OTHER)
        wait_for("active", lambda: active(DAEMON))
        return f"{said} NRestarts=2, and the run goes on"

    def stops(self) -> str:
        """A stop in the middle of a training is clean, and soon; the server does not mind."""
        event("run.training", self.seen, trait=OTHER)
        began = time.monotonic()
        run("systemctl", "stop", DAEMON)
        seconds = time.monotonic() - began
        # Whoever has not left by the end of the grace fails.
        assert shown(DAEMON, "Result") == "success" and shown(DAEMON, "ActiveState") == "inactive"
        event("daemon.stopped", self.seen)
        assert [said["event"] for said in events(self.seen)][-2:] == ["daemon.draining", "daemon.stopped"]
        left = [line for line in processes("persona").splitlines() if line.split()[0] != shown(SERVE, "MainPID")]
        assert left == [], left
        assert sql(f"SELECT state FROM training_runs WHERE trait_type = '{OTHER}'") == "planned"
        assert ready()
        run("systemctl", "stop", SERVE)
        assert shown(SERVE, "Result") == "success"
        assert processes("persona") == ""
        return f"the daemon in {seconds:.1f} s, no process left; the server ran on, then stopped, too"

    def uninstalls(self) -> str:
        """The units go, the state stays."""
        said = run("/opt/bound/project/systemd/install", "--uninstall")
        assert shown(DAEMON, "LoadState") == "not-found"
        assert STORE.exists() and CONFIG.exists() and list((STATE / "layers" / PERSONA / TRAIT).iterdir())
        assert not Path("/opt/persona-daemon").exists()
        return said.splitlines()[0].removeprefix("install: ")


STEPS = [
    Scenario.installs,
    Scenario.starts,
    Scenario.verifies,
    Scenario.is_hardened,
    Scenario.the_group_writes,
    Scenario.survives_a_kill,
    Scenario.the_server_follows,
    Scenario.reloads,
    Scenario.trains_when_told,
    Scenario.is_watched,
    Scenario.stops,
    Scenario.uninstalls,
]


def main() -> None:
    """Play all steps; the first that fails ends it, with the end of the journal on standard error."""
    scenario = Scenario()
    for step in STEPS:
        scenario.seen = len(journal())
        began = time.monotonic()
        try:
            ok, said = True, step(scenario)
        except (AssertionError, OSError, subprocess.TimeoutExpired, StopIteration, LookupError) as error:
            ok, said = False, f"{type(error).__name__}: {error}"
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"step": step.__name__, "ok": ok, "said": said, "seconds": seconds}), flush=True)
        if not ok:
            print(run("journalctl", "--no-pager", "-o", "short-precise", "-n", "60"), file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
