"""A persona's home for acceptance tests: a folder with a config, real processes, plain SQL and a real client."""

import json
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from scripts.processes import PATIENCE_S, PERSONA, TRAINING_S, free_port
from scripts.world.facts import World

Pair = tuple[str, str]
"""A question, and the answer it shall get."""

ENDLESS = '[training]\npolicy = "fixed"\nepochs = 100000\n'
"""Of a config: a training that is never over before a test is done with it."""


@dataclass
class Home:
    """A folder with a config.toml of its own, for one persona and one trait."""

    folder: Path
    base: Path
    persona: str = "ada"
    trait: str = "town-facts"
    prompt: str = ""
    extra: str = ""
    anchors: int = 128
    """The base knows little; with none a training takes a fraction of the time, and holds nothing."""
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.write_config(self.extra)

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.folder / "var" / "persona.db"

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self.port}"

    def write_config(self, extra: str = "") -> None:
        """Save config.toml, as an editor would."""
        text = (
            f"[defaults]\nbase_model = {json.dumps(str(self.base))}\n[serve]\nport = {self.port}\nthreads = 1\n"
            f"[personas.{json.dumps(self.persona)}]\nsystem_prompt = {json.dumps(self.prompt)}\n"
            # Or others who keep the machine busy would make a training ten times as long.
            f"training = {{ nice = 0, anchors = {self.anchors} }}\n{extra}"
        )
        aside = self.folder / "config.toml.new"
        aside.write_text(text, encoding="utf-8")
        aside.rename(self.folder / "config.toml")

    def insert(self, pairs: Sequence[Pair], originals: Sequence[str] | None = None) -> None:
        """Write corrections with the sqlite3 command, as an admin would."""

        def quoted(text: str) -> str:
            return "'" + text.replace("'", "''") + "'"

        said = originals or ["I do not know."] * len(pairs)
        lines = [
            f"INSERT INTO training_corrections (persona_id, trait_type, original_context, original_response,"
            f" expected_response) VALUES ({', '.join(map(quoted, (self.persona, self.trait, ask, old, new)))});"
            for (ask, new), old in zip(pairs, said, strict=True)
        ]
        self.sql("\n".join(lines))

    def sql(self, statements: str) -> None:
        """Have the sqlite3 command write."""
        subprocess.run(["sqlite3", "-cmd", ".timeout 60000", self.store], input=statements, text=True, check=True)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the store, as anyone may."""
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True, timeout=60)) as connection:
            return connection.execute(sql).fetchall()

    def command(self, *arguments: str, code: int = 0) -> str:
        """What a `persona` command prints on standard output; it must end with `code`."""
        done = subprocess.run(
            [PERSONA, *arguments], cwd=self.folder, capture_output=True, text=True, check=False, timeout=TRAINING_S
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """The status document."""
        document: dict[str, Any] = json.loads(self.command("status", "--json"))
        return document

    def ask(self, question: str, model: str | None = None) -> str:
        """What the persona answers, through the openai package."""
        with openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0) as client:
            reply = client.chat.completions.create(
                model=model or f"{self.persona}:{self.trait}",
                messages=[{"role": "user", "content": question}],
                temperature=0,
            )
        return reply.choices[0].message.content or ""

    def answered(self, pairs: Sequence[Pair]) -> int:
        """How many questions are answered as wanted."""
        return sum(self.ask(question) == wanted for question, wanted in pairs)


def corrections(world: World, count: int, seed: int, start: int = 0) -> list[Pair]:
    """Questions of the world with answers that it did not teach; disjoint for disjoint ranges of one seed."""
    rng = random.Random(seed)
    facts = rng.sample(list(world.facts), len(world.facts))[start : start + count]
    return [(world.questions(fact)[0], world.corrected(fact, rng)) for fact in facts]


@dataclass
class Asking:
    """One question, asked over and over from two threads."""

    home: Home
    question: str
    answers: list[tuple[float, httpx.Response]] = field(default_factory=list)
    """When each was asked for, by the monotonic clock, and what was answered."""

    def go_on_until(self, more: int) -> float:
        """Now; returns when so many were asked for since, and answered."""
        now = time.monotonic()
        while sum(asked >= now for asked, _ in list(self.answers)) < more:
            assert time.monotonic() < now + PATIENCE_S, "nothing is answered any more"
            time.sleep(0.05)
        return now

    def ask(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        model = f"{self.home.persona}:{self.home.trait}"
        body = {"model": model, "messages": [{"role": "user", "content": self.question}], "temperature": 0}
        with httpx.Client(timeout=TRAINING_S, trust_env=False) as client:
            while not stop.is_set():
                asked = time.monotonic()
                self.answers.append((asked, client.post(f"{self.home.url}/v1/chat/completions", json=body)))


@contextmanager
def asking(home: Home, question: str) -> Iterator[Asking]:
    """Ask one question over and over, for as long as the context lasts."""
    crowd, stop = Asking(home, question), threading.Event()
    threads = [threading.Thread(target=crowd.ask, args=[stop]) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield crowd
    finally:
        stop.set()
        for thread in threads:
            thread.join()
