"""The demo: a persona is asked, corrected by plain SQL, learns by itself, is asked again, and rolled back."""

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import openai
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.store.lock import StoreLock
from scripts.processes import PERSONA as COMMAND
from scripts.processes import TRAINING_S, Process, configured, running
from scripts.world.__main__ import build
from scripts.world.base import about_base, world_of
from scripts.world.facts import World

HOME = Path(__file__).parents[1] / ".cache" / "demo"
PERSONA, TRAIT = "helper-ai", "town-news"
CORRECTIONS = 12
SEED = 11
INSERT = """INSERT INTO training_corrections
  (persona_id, trait_type, original_context, original_response, expected_response)
VALUES """

console = Console(highlight=False)


@dataclass(frozen=True)
class Case:
    """One question, and what ought to be answered once the corrections are learnt."""

    question: str
    expected: str


Answers = dict[Case, str]


def main() -> int:
    """Tell the whole story; 0 when it went well, 1 when it broke, 130 when it was interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        story()
    except KeyboardInterrupt:
        console.print("\nInterrupted; nothing is left running.")
        return 130
    except RuntimeError as error:
        console.print(f"\n[red]{error}[/red]")
        return 1
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def story() -> None:
    """The six scenes of the demo, each real; raises RuntimeError when one does not come about."""
    began = time.monotonic()
    title(0, "A small base model", "pretrained here on a made-up town; once, then it is cached")
    base = build("demo", None, console)
    console.print(about_base(base), soft_wrap=True)
    corrected, paraphrased, unrelated = cases(world_of(base))
    asked = [*corrected, *paraphrased, *unrelated]
    url = prepare(base)
    with (
        running(HOME, "daemon", "serve") as (daemon, server),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        daemon.wait_for("daemon.ready")
        server.wait_for("base.loaded")

        title(1, "What the persona says now", f"{len(asked)} questions through the openai client at {url}")
        before = ask(client, asked)
        title(2, f"{CORRECTIONS} corrections", "written with plain SQL, as any program may")
        write_corrections(corrected, before)
        title(3, "It learns by itself", "`persona daemon` saw the rows; nobody tells it anything")
        revision = follow(daemon)
        title(4, "The same questions again", "the server was never restarted")
        after = ask(client, asked)
        show(corrected, before, after)
        summary(corrected, paraphrased, unrelated, before, after)
        title(5, "And back", "one command, one transaction")
        roll_back(daemon, revision)
        same = sum(answer == before[case] for case, answer in ask(client, asked).items())
        console.print(f"{same} of {len(asked)} answers are again what they were at first.")
    console.print(f"\n[bold]{time.monotonic() - began:.0f} s.[/bold] Nothing is left running; store, layers and logs:")
    console.print(f"  {HOME}", soft_wrap=True)


def title(number: int, head: str, tail: str) -> None:
    """One scene's heading."""
    console.print(f"\n[bold]{number}. {head}[/bold]: {tail}")


def prepare(base: Path) -> str:
    """A fresh folder with a config; the server's address."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    return configured(HOME, base, next(persona for persona in world_of(base).personas if persona.id == PERSONA))


def cases(world: World) -> tuple[list[Case], list[Case], list[Case]]:
    """Questions to correct, the same in other words, and questions about other things."""
    rng = random.Random(SEED)
    facts = rng.sample(list(world.facts), 2 * CORRECTIONS)
    corrected, paraphrased = [], []
    for fact in facts[:CORRECTIONS]:
        expected = world.corrected(fact, rng)
        asked, reworded = rng.sample(world.questions(fact), 2)
        corrected.append(Case(asked, expected))
        paraphrased.append(Case(reworded, expected))
    unrelated = [Case(rng.choice(world.questions(fact)), world.answer(fact)) for fact in facts[CORRECTIONS:]]
    return corrected, paraphrased, unrelated


def ask(client: openai.OpenAI, cases: Sequence[Case]) -> Answers:
    """What `helper-ai:town-news` answers to each question, greedily."""
    answers = {}
    for case in cases:
        reply = client.chat.completions.create(
            model=f"{PERSONA}:{TRAIT}", messages=[{"role": "user", "content": case.question}], temperature=0
        )
        answers[case] = reply.choices[0].message.content or ""
    return answers


def write_corrections(corrected: Sequence[Case], before: Answers) -> None:
    """Five columns a row; by the sqlite3 command where there is one, else by Python's driver."""
    rows = [(PERSONA, TRAIT, case.question, before[case], case.expected) for case in corrected]
    sql = INSERT + ",\n  ".join(f"({', '.join(map(quoted, row))})" for row in rows) + ";"
    console.print(f"[dim]{INSERT}({', '.join(map(quoted, rows[0]))}), … {len(rows) - 1} more[/dim]")
    store = HOME / "var" / "persona.db"
    if shutil.which("sqlite3"):
        subprocess.run(["sqlite3", "-cmd", ".timeout 60000", store], input=sql, text=True, check=True)
        return
    with closing(sqlite3.connect(store, timeout=60.0)) as connection, connection:
        connection.execute(sql)


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def follow(daemon: Process) -> int:
    """Show the run's progress until the server serves its layer; the revision. Raises RuntimeError."""
    lock = StoreLock(HOME / "var" / "persona.db")
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("waiting for the burst to end", total=None)
        deadline = time.monotonic() + TRAINING_S
        while time.monotonic() < deadline:
            for end in ("run.rejected", "run.failed"):
                if ended := daemon.events(end):
                    raise RuntimeError(f"{end}: {ended[0]['reason']}")
            if converged := daemon.events("runtime.converged"):
                bar.update(task, description="served", total=1, completed=1)
                break
            for step in ((lock.note() or {}).get("progress") or {}).values():
                text = f"training, loss {step['loss']:.2f}"
                bar.update(task, description=text, total=step["steps"], completed=step["step"])
            time.sleep(0.2)
        else:
            raise RuntimeError(f"nothing was served within {TRAINING_S / 60:.0f} minutes; see {daemon.log}")
    verdict = daemon.events("run.evaluated")[-1]
    console.print(f"The gate: {verdict['reason']}")
    return int(converged[-1]["revision"])


def show(corrected: Sequence[Case], before: Answers, after: Answers) -> None:
    """The corrected questions, one row each, as they were answered before and after."""
    table = Table("Question", "Before", "After", "", header_style="bold")
    for case in corrected:
        mark = "[green]✓[/green]" if after[case] == case.expected else "[red]✗[/red]"
        after_text = after[case] if after[case] == case.expected else f"{after[case]} (expected: {case.expected})"
        table.add_row(case.question, before[case], after_text, mark)
    console.print(table)


def summary(
    corrected: Sequence[Case], paraphrased: Sequence[Case], unrelated: Sequence[Case], before: Answers, after: Answers
) -> None:
    """How many questions of each kind are answered as expected, before and after."""
    table = Table("", "before", "after", header_style="bold")
    for name, group in {
        "corrected, as asked": corrected,
        "corrected, in other words": paraphrased,
        "unrelated": unrelated,
    }.items():
        counts = [sum(answers[case] == case.expected for case in group) for answers in (before, after)]
        table.add_row(name, *(f"{count} of {len(group)}" for count in counts))
    console.print(table)
    for case in unrelated:
        if after[case] != before[case]:
            console.print(f"[yellow]Changed though unrelated:[/yellow] {case.question} {before[case]} → {after[case]}")


def roll_back(daemon: Process, revision: int) -> None:
    """Undo the layer with the command an admin would use, and wait until the server speaks without it."""
    command = ["genome", "rollback", PERSONA, TRAIT]
    console.print(f"[dim]$ cd {HOME} && persona {' '.join(command)}[/dim]", soft_wrap=True)
    done = subprocess.run([COMMAND, *command], cwd=HOME, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    console.print(done.stdout.strip())
    daemon.wait_for("runtime.converged", wanted=lambda event: int(event["revision"]) > revision)


if __name__ == "__main__":
    sys.exit(main())
