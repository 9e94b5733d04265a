"""Admins' requests: each answered once, whatever it says; and what a daemon takes over from the one before."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.domain import RunState
from daemon.errors import StoreError
from daemon.learning.planner import Wishes
from daemon.service import loops
from daemon.service.lifecycle import carry_out, holding
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import ADA, a_store, evaluating, everything, execute, planned, speaks, where, write

LONG = 10**30
RUST = {"persona": "ada", "trait": "rust"}


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    """A trait with two layers."""
    async with a_school(tmp_path) as opened:
        await opened.learn_two_layers()
        yield opened


async def test_train_plans_what_it_names_and_says_what_waits(school: School) -> None:
    assert await school.ask("train") == ("done", {"runs": [], "under_way": [], "waits": {}, "owed": [], "hindered": []})
    write(school.path, "five")
    state, result = await school.ask("train", persona="ada", trait="rust")
    (run,) = await school.store.runs.live()
    assert (state, result) == ("done", {"runs": [run.id], "under_way": [], "waits": {}, "owed": [], "hindered": []})
    write(school.path, "six")
    assert await school.ask("train", persona="ada") == (
        "done",
        {
            "runs": [],
            "under_way": [run.id],
            "waits": {"ada:rust": "a run of it is under way; what came later is trained after it"},
            "owed": ["ada:rust"],
            "hindered": [],
        },
    )


async def test_train_tells_of_no_runs_but_its_own(school: School) -> None:
    write(school.path, "five", "six")
    await school.planner.plan(Wishes())
    school.moment += 60
    state, result = await school.ask("train", persona="bob")
    assert (state, result["runs"]) == ("done", [])
    assert len(await school.store.runs.live()) == 1


async def test_rollback_pin_unpin_and_release(school: School) -> None:
    assert await school.ask("pin", **RUST, version=1) == ("done", {**RUST, "revision": 3, "version": 1, "released": 0})
    state, result = await school.ask("rollback", **RUST)
    assert state == "refused" and "ada:rust is pinned" in result["error"]
    assert await school.ask("unpin", **RUST) == ("done", {**RUST, "revision": 4})
    with capture_logs() as logs:
        done = await school.ask("rollback", **RUST)
    assert done == (
        "done",
        {**RUST, "revision": 5, "version": 0, "undone": [1], "quarantined": 2, "still_known_to": []},
    )
    assert [log["event"] for log in logs] == ["genome.revised", "corrections.quarantined", "request.done"]
    assert await school.ask("release", ids=["one", "nobody"]) == ("done", {"released": 1})
    assert [row.id for row in await school.store.corrections.learnt(ADA)] == ["one", "three", "four"]
    assert await school.ask("release", ids=[f"row{number}" for number in range(40_000)]) == (
        "refused",
        {"error": "None of these is quarantined; see: persona corrections list --state quarantined"},
    )


async def test_invariant_6_what_is_undone_twice_does_not_come_back_with_the_next_batch(school: School) -> None:
    assert (await school.ask("rollback", **RUST, to=0))[1]["quarantined"] == 4
    # This one replaces "four", which the layer learns of only by that: it is undone with it, too.
    write(school.path, "five", "six", original_context="What is four?")
    assert len((await school.plan()).runs) == 1
    assert await school.ask("release", ids=["three", "four"]) == ("done", {"released": 2})
    await school.conduct()
    assert (await school.ask("rollback", **RUST))[1]["quarantined"] == 4
    assert await school.store.corrections.learnt(ADA) == []
    # Whatever else is asked for by name, the rest stays where it is.
    assert await school.ask("release", ids=["five"]) == ("done", {"released": 1})
    assert [row.id for row in await school.store.corrections.learnt(ADA)] == ["five"]


async def test_invariant_6_a_version_whose_bytes_are_gone_is_no_target(school: School) -> None:
    first = (await school.store.genomes.layers(ADA))[1]
    (school.layers.root / first.path / "adapter_config.json").unlink()
    for kind, args in (("rollback", {}), ("rollback", {"to": 1}), ("pin", {"version": 1})):
        state, result = await school.ask(kind, **RUST, **args)
        assert state == "refused" and "adapter_config.json is missing. Choose another version" in result["error"]
    assert await speaks(school.store) == 2
    assert (await school.ask("rollback", **RUST, to=0))[0] == "done"


async def test_cancel(school: School) -> None:
    write(school.path, "five")
    run = await planned(school.store)
    assert await school.ask("cancel", run=run.id) == ("done", {"run": run.id, "pending": 1, "quarantined": 0})
    assert await school.ask("cancel", run=run.id) == ("refused", {"error": f"Run {run.id} is cancelled already."})
    state, result = await school.ask("cancel", run="nope")
    assert (state, result["error"]) == (
        "refused",
        "No run, or more than one, begins with 'nope'; see: persona runs list",
    )
    assert where(school.path)["five"] == "pending"


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("explode", {}),
        ("", {}),
        ("train", {"persona": 5}),
        ("train", {"persona": "", "trait": "rust"}),
        ("cancel", {}),
        ("cancel", {"run": ["x"]}),
        ("cancel", {"run": "\ud800"}),
        ("rollback", {}),
        ("rollback", {"persona": "ada"}),
        ("rollback", {**RUST, "to": -1}),
        ("rollback", {**RUST, "to": "1"}),
        ("rollback", {**RUST, "to": True}),
        ("rollback", {**RUST, "to": 1.0}),
        ("rollback", {**RUST, "to": LONG}),
        ("rollback", {"persona": "\ud800", "trait": "rust"}),
        ("pin", RUST),
        ("pin", {**RUST, "version": None}),
        ("pin", {**RUST, "version": True}),
        ("pin", {**RUST, "version": LONG}),
        ("pin", {**RUST, "version": 9}),
        ("unpin", RUST),
        ("unpin", {"trait": "rust"}),
        ("release", {}),
        ("release", {"ids": "one"}),
        ("release", {"ids": [1]}),
        ("release", {"ids": ["\ud800"]}),
        ("release", {"ids": ["one"]}),
        ("release", {"ids": []}),
    ],
    ids=lambda value: str(value).replace("\ud800", "half"),
)
async def test_invariant_11_a_request_that_cannot_be_is_refused_with_a_sentence(
    school: School, kind: str, args: dict[str, Any]
) -> None:
    execute(school.path, "INSERT INTO admin_requests (kind, args) VALUES (?, ?)", (kind, json.dumps(args)))
    before = [line for line in everything(school.path) if "admin_requests" not in line]
    assert await school.admin.serve() and not await school.admin.serve()
    ((state, result),) = execute(school.path, "SELECT state, result FROM admin_requests")
    assert state == "refused" and len(json.loads(result)["error"]) > 10
    assert [line for line in everything(school.path) if "admin_requests" not in line] == before


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("kind", "CAST(x'ff' AS TEXT)"),
        ("id, kind", "CAST(x'ff41' AS TEXT), 'explode'"),
        ("kind, args", "'train', '{\"a\":" + "[" * 1_400 + "]" * 1_400 + "}'"),
        ("kind, args", "'train', '{\"a\":" + "9" * 6_000 + "}'"),
        ("kind, requested_by, args", "'cancel', CAST(x'ff' AS TEXT), '{\"run\":\"x\"}'"),
        ("kind, result", "'cancel', 'oops'"),
        ("kind, requested_by", "'cancel', x'00ff'"),
        ("id, kind", "x'ff41', 'cancel'"),
        ("kind", "x'ff41'"),
    ],
    ids=["kind", "id", "depth", "digits", "author", "result", "author in bytes", "id in bytes", "kind in bytes"],
)  # fmt: skip
async def test_invariant_11_what_another_program_wrote_badly_is_refused_once(
    school: School, columns: str, values: str
) -> None:
    execute(school.path, f"INSERT INTO admin_requests ({columns}) VALUES ({values})")
    await school.ask("train")
    assert not await school.admin.serve()
    assert execute(school.path, "SELECT state FROM admin_requests ORDER BY rowid") == [("refused",), ("done",)]


async def test_who_asked_badly_is_still_named_in_what_was_done(school: School) -> None:
    write(school.path, "five")
    run = await planned(school.store)
    execute(
        school.path,
        "INSERT INTO admin_requests (kind, requested_by, args) VALUES ('cancel', CAST(x'42ff' AS TEXT), ?)",
        (json.dumps({"run": run.id}),),
    )
    assert await school.admin.serve()
    assert (await school.run(run.id)).reason == "cancelled by B?"


async def recovered(school: School) -> list[tuple[RunState, int]]:
    """What a daemon finds when it starts over what another left: the live runs' states and attempts."""
    school.configure(f'[store]\nurl = "sqlite:///{school.path}"\n[layers]\ndirectory = "{school.layers.root}"')
    async with holding(school.config) as daemon:
        return [(run.state, run.attempt) for run in await daemon.store.runs.live()]


async def test_a_request_that_was_begun_is_not_done_twice_by_whoever_starts_next(school: School) -> None:
    request = await school.store.requests.ask("rollback", RUST, "me")
    assert await school.store.requests.begin(request)
    await school.store.genomes.rollback(ADA, None, "me", school.clock())
    # Killed here, before the answer: version 1 speaks, and goes on speaking.
    assert await recovered(school) == []
    assert await speaks(school.store) == 1
    answer = await school.store.requests.get(request)
    assert answer and answer.state == "refused" and "ask again if it was not" in str(answer.result)


async def test_a_request_that_was_withdrawn_is_not_done(school: School) -> None:
    request = await school.store.requests.ask("rollback", RUST, "me")
    assert await school.store.requests.withdraw(request, "nobody answered")
    assert not await school.store.requests.begin(request)
    assert not await school.admin.serve()
    assert await speaks(school.store) == 2
    begun = await school.store.requests.ask("rollback", RUST, "me")
    assert await school.store.requests.begin(begun)
    assert not await school.store.requests.withdraw(begun, "too late")


async def test_invariant_12_whoever_starts_takes_over_what_was_left_in_the_middle(school: School) -> None:
    write(school.path, "five")
    run = await evaluating(school.store)
    staged = school.layers.staging(run.id, 1)
    staged.mkdir()
    assert await recovered(school) == [(RunState.PLANNED, 2)]
    assert not staged.exists() and where(school.path)["five"] == "claimed"
    assert await recovered(school) == [(RunState.PLANNED, 2)], "a planned run was not interrupted"
    run = await school.run(run.id)
    run = await school.store.runs.promoting(
        await school.store.runs.evaluating(await school.store.runs.take(run), 2), "p", {}
    )
    assert await recovered(school) == [(RunState.PROMOTING, 2)]


async def test_a_run_that_interrupts_us_again_and_again_ends_in_quarantine(school: School) -> None:
    write(school.path, "five")
    run = await school.store.runs.take(await planned(school.store))
    execute(school.path, "UPDATE training_runs SET failures = 20 WHERE id = ?", (run.id,))
    assert await recovered(school) == []
    assert where(school.path)["five"] == "quarantined"
    assert (await school.run(run.id)).reason == "interrupted or failed 20 times"


async def test_one_pass_over_everything_conducts_and_publishes(school: School) -> None:
    write(school.path, "five", "six")
    await planned(school.store)
    school.configure(f'[store]\nurl = "sqlite:///{school.path}"\n[layers]\ndirectory = "{school.layers.root}"')
    async with holding(school.config) as daemon:
        daemon.conductor.trainer = school.trainer
        assert [run.state for run in await carry_out(daemon)] == [RunState.PROMOTED]
    assert await speaks(school.store) == 3
    genome = json.loads((school.layers.root / "genomes" / "ada.json").read_text())
    assert (genome["revision"], genome["traits"]["rust"]["version"]) == (3, 3)


async def test_a_store_that_is_replaced_under_the_daemon_ends_it(school: School, tmp_path: Path) -> None:
    school.configure(f'[store]\nurl = "sqlite:///{school.path}"\n[layers]\ndirectory = "{school.layers.root}"')
    async with holding(school.config) as daemon:
        watching = asyncio.create_task(loops.watch_store(daemon))
        # Its first look is over once it wakes the planner, who has not seen the store before.
        await asyncio.wait_for(daemon.wakes.planner.wait(), 60)
        for file in school.path.parent.glob("persona.db*"):
            file.rename(tmp_path / file.name)
        async with a_store(school.path):
            with pytest.raises(StoreError, match="was replaced or removed while the daemon ran"):
                await asyncio.wait_for(watching, 60)
