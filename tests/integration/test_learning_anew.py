"""What was learnt is learnt again: on another base, after a release, by another persona, in one layer of several."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.domain import Purpose, Run, RunState, TraitKey
from daemon.errors import TrainerFailed
from daemon.learning.planner import Planner
from daemon.learning.status import document
from daemon.training.engine.job import Blend, Group, Job
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import ADA, speaks, where, write

RUST = {"persona": "ada", "trait": "rust"}
BOB = TraitKey("bob", "rust")
NOTES = TraitKey("ada", "notes")


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    """A trait with two layers."""
    async with a_school(tmp_path) as opened:
        await opened.learn_two_layers()
        yield opened


def asked(job: Job, group: Group) -> list[str]:
    """The corrections that a job has of one group, by what they are about."""
    return [example.messages[-1]["content"] for example in job.examples if example.group is group]


def about(names: Collection[str]) -> list[str]:
    return [f"What is {name}?" for name in names]


async def test_invariant_10_on_another_base_everything_is_learnt_again(school: School) -> None:
    school.weights.write_bytes(b"others")
    with capture_logs() as logs:
        (run,) = (await school.plan()).runs
    assert [log["event"] for log in logs] == ["layer.stale", "run.planned"] and logs[0]["version"] == 2
    assert (run.purpose, where(school.path)) == (
        Purpose.RELEARN,
        dict.fromkeys(("one", "two", "three", "four"), "used"),
    )
    assert "the base model was changed" in run.planned_because
    ended = await school.conduct()
    job = school.trainer.jobs[-1]
    assert (asked(job, Group.BATCH), asked(job, Group.HISTORY)) == (about(["one", "two", "three", "four"]), [])
    assert job.incumbent is None, "what serves no more is nothing to compare with"
    assert (ended.state, await speaks(school.store)) == (RunState.PROMOTED, 3)
    assert (await school.plan()).runs == [], "once"
    layer = (await school.store.genomes.layers(ADA))[0]
    assert school.layers.verify(layer.path).learnt == ["one", "two", "three", "four"]


async def test_a_base_on_which_it_cannot_be_learnt_is_tried_once(school: School) -> None:
    school.weights.write_bytes(b"others")
    school.trainer.outcome = "worse"
    await school.plan()
    assert (await school.conduct()).state is RunState.REJECTED
    assert set(where(school.path).values()) == {"used"} and await speaks(school.store) == 2
    assert (await school.plan()).runs == []
    (told,) = (await document(school.store, school.config, None))["traits"]
    assert told["why"].startswith("its last run could not teach it again what it had learnt, see: persona runs list")
    assert told["why"].endswith("persona train --persona ada --trait rust")
    # The base as it was is served again, without a run.
    school.weights.write_bytes(b"weights")
    assert (await school.plan()).runs == []
    school.weights.write_bytes(b"third")
    assert [run.purpose for run in (await school.plan()).runs] == [Purpose.RELEARN]


async def test_a_batch_on_another_base_is_learnt_with_all_that_came_before(school: School) -> None:
    school.weights.write_bytes(b"others")
    write(school.path, "five", "six")
    (run,) = (await school.plan()).runs
    assert run.purpose is Purpose.LEARN, "what is due is claimed first"
    await school.conduct()
    assert asked(school.trainer.jobs[-1], Group.BATCH) == about(["one", "two", "three", "four", "five", "six"])
    assert set(where(school.path).values()) == {"used"} and (await school.plan()).runs == []


async def test_a_pinned_trait_is_not_relearnt(school: School) -> None:
    await school.ask("pin", **RUST, version=2)
    school.weights.write_bytes(b"others")
    with capture_logs() as logs:
        assert [(await school.plan()).runs for _ in range(2)] == [[], []]
    assert [(log["event"], log["version"]) for log in logs] == [("layer.stale", 2)], "and that is told once"


async def test_where_nothing_can_be_learnt_on_another_base_it_is_tried_once(school: School) -> None:
    school.weights.write_bytes(b"others")
    school.trainer.unusable = dict.fromkeys(("one", "two", "three", "four"), "it is too long")
    await school.plan()
    ended = await school.conduct()
    assert (ended.state, ended.reason) == (RunState.CANCELLED, "there is nothing to learn again")
    assert (await school.plan()).runs == []
    # Whoever asks has it tried once more.
    _, answer = await school.ask("train", persona="ada")
    assert len(answer["runs"]) == 1


async def test_what_is_released_is_learnt_again_at_once(school: School) -> None:
    await school.ask("rollback", **RUST)
    assert await school.ask("release", ids=["three", "four"]) == ("done", {"released": 2})
    (run,) = (await school.plan()).runs
    assert run.purpose is Purpose.RELEARN
    assert run.planned_because == "2 of the corrections learnt once are unknown to version 1, which speaks now"
    ended = await school.conduct()
    job = school.trainer.jobs[-1]
    assert (asked(job, Group.HISTORY), asked(job, Group.BATCH)) == (about(["one", "two"]), about(["three", "four"]))
    assert (ended.state, await speaks(school.store)) == (RunState.PROMOTED, 3)
    assert (await school.plan()).runs == []


async def test_what_is_released_while_a_run_trains_is_learnt_after_it_by_whatever_daemon(school: School) -> None:
    await school.ask("rollback", **RUST)
    write(school.path, "five", "six")

    async def released(_: Job) -> None:
        await school.ask("release", ids=["three"])

    school.trainer.meanwhile = released
    await school.learn()
    assert asked(school.trainer.jobs[-1], Group.BATCH) == about(["five", "six"])
    school.planner = Planner(school.store, school.layers, lambda: school.config, clock=school.clock)
    assert [run.purpose for run in (await school.plan()).runs] == [Purpose.RELEARN]
    await school.conduct()
    assert asked(school.trainer.jobs[-1], Group.BATCH) == about(["three"])


async def test_what_cannot_be_learnt_again_goes_back_and_burdens_no_batch(school: School) -> None:
    await school.ask("rollback", **RUST)
    await school.ask("release", ids=["three", "four"])
    school.trainer.outcome = "worse"
    assert len((await school.plan()).runs) == 1
    with capture_logs() as logs:
        ended = await school.conduct()
    assert ended.state is RunState.REJECTED
    (told,) = (log for log in logs if log["event"] == "corrections.quarantined")
    assert told["ids"] == ["three", "four"] and told["reason"].startswith("not learnt again: It learned nothing")
    assert {where(school.path)[name] for name in ("three", "four")} == {"wrong [1, 1, 0]"}, "used once, and set aside"
    assert (await school.plan()).runs == []
    school.trainer.outcome = "better"
    write(school.path, "five", "six")
    await school.learn()
    job = school.trainer.jobs[-1]
    assert (asked(job, Group.HISTORY), asked(job, Group.BATCH)) == (about(["one", "two"]), about(["five", "six"]))
    # Released once more, it is tried once more; with its layer it comes back.
    assert await school.ask("release", ids=["three"]) == ("done", {"released": 1})
    assert [run.purpose for run in (await school.plan()).runs] == [Purpose.RELEARN]
    await school.conduct()
    await school.ask("pin", **RUST, version=2)
    assert set(where(school.path).values()) == {"used"}


async def test_what_another_base_could_not_be_taught_burdens_no_batch(school: School) -> None:
    school.weights.write_bytes(b"others")
    school.trainer.outcome = "worse"
    await school.plan()
    assert (await school.conduct()).state is RunState.REJECTED
    assert set(where(school.path).values()) == {"used"}
    write(school.path, "five", "six")
    school.trainer.outcome = "better"
    await school.learn()
    job = school.trainer.jobs[-1]
    assert asked(job, Group.BATCH) == about(["five", "six"])
    assert asked(job, Group.HISTORY) == about(["one", "two", "three", "four"]), "learnt as well as may be"


async def test_what_cannot_be_trained_on_is_not_learnt_again_and_again(school: School) -> None:
    school.weights.write_bytes(b"others")
    school.trainer.unusable = {"one": "it is too long"}
    await school.plan()
    assert (await school.conduct()).state is RunState.PROMOTED
    assert (await school.plan()).runs == []
    school.weights.write_bytes(b"third")
    assert len((await school.plan()).runs) == 1, "another base may take it"


async def test_a_layer_whose_disk_is_away_is_waited_for(school: School) -> None:
    away = school.layers.root.with_name("away")
    school.layers.root.rename(away)
    school.layers.root.mkdir()
    with capture_logs() as logs:
        assert [(await school.plan()).runs for _ in range(2)] == [[], []]
    assert [(log["event"], log["version"]) for log in logs] == [("layer.broken", 2)], "once"
    assert len((await school.ask("train", persona="ada"))[1]["runs"]) == 1, "who asks has it learnt anew"


async def test_what_an_undone_layer_answered_is_learnt_when_it_is_released(school: School) -> None:
    write(school.path, "five", "six")
    school.trainer.outcome = "satisfied"
    assert (await school.learn()).state is RunState.SATISFIED
    await school.ask("rollback", **RUST)
    await school.ask("release", ids=["five", "six"])
    school.trainer.outcome = "better"
    assert len((await school.plan()).runs) == 1
    await school.conduct()
    assert asked(school.trainer.jobs[-1], Group.BATCH) == about(["five", "six"])


async def test_what_was_answered_already_is_kept_and_not_learnt_again(school: School) -> None:
    write(school.path, "five", "six")
    school.trainer.outcome = "satisfied"
    assert (await school.learn()).state is RunState.SATISFIED
    assert (await school.plan()).runs == []
    school.trainer.outcome = "better"
    write(school.path, "seven", "eight")
    await school.learn()
    job = school.trainer.jobs[-1]
    assert asked(job, Group.HISTORY) == about(["one", "two", "three", "four", "five", "six"])
    assert asked(job, Group.BATCH) == about(["seven", "eight"])


async def given(school: School, run: Run) -> None:
    """What a transfer leaves behind where it went well."""
    assert run.state is RunState.PROMOTED, run.reason
    rows = await school.store.corrections.learnt(BOB)
    assert [(row.context, row.source) for row in rows] == [
        (question, "import") for question in about(["one", "two", "three", "four"])
    ]
    assert set(where(school.path).values()) == {"used"}


async def test_a_layer_is_taken_over_and_gated(school: School) -> None:
    before = (await school.store.genomes.layers(ADA))[0]
    state, result = await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    assert (state, result["corrections"]) == ("done", 4)
    run = await school.conduct()
    await given(school, run)
    job = school.trainer.jobs[-1]
    assert job.blend == Blend([str(school.layers.root / before.path)], [1.0])
    assert asked(job, Group.BATCH) == about(["one", "two", "three", "four"])
    (layer,) = await school.store.genomes.layers(BOB)
    assert school.layers.verify(layer.path).sources == ["ada:rust@2"]
    (event,) = await school.store.genomes.history("bob")
    assert event.reason.startswith("transfer of ada:rust@2, asked by me. It answers 4 of 4")
    # A second one finds that nothing is left to be learnt.
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.outcome = "satisfied"
    assert (await school.conduct()).state is RunState.SATISFIED
    assert len(where(school.path)) == 8


async def test_what_the_gate_refuses_to_take_over_is_learnt_instead(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.outcome = "worse"
    put_back = await school.attempt()
    assert put_back.state is RunState.PLANNED and "It is learnt from the corrections instead" in str(put_back.reason)
    school.trainer.outcome = "better"
    await given(school, await school.conduct())
    job = school.trainer.jobs[-1]
    assert (job.blend, job.recipe.careful) == (None, False)


async def test_what_cannot_be_made_of_layers_is_learnt_instead(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.failures = [TrainerFailed("These layers cannot be merged.", retry=False)]
    put_back = await school.attempt()
    assert str(put_back.reason) == "These layers cannot be merged. It is learnt from the corrections instead"
    await given(school, await school.conduct())
    assert school.trainer.jobs[-1].blend is None


async def test_a_transfer_that_is_cancelled_leaves_nothing_pending(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    (run,) = await school.store.runs.live()
    with capture_logs() as logs:
        state, result = await school.ask("cancel", run=run.id)
    assert (state, result) == ("done", {"run": run.id, "pending": 0, "quarantined": 4})
    (told,) = (log for log in logs if log["event"] == "corrections.quarantined")
    assert (told["corrections"], told["reason"]) == (4, "not learnt: cancelled by me")
    assert list(where(school.path).values()) == ["used"] * 4 + ["quarantined"] * 4


async def test_what_nobody_could_be_taught_is_set_aside(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.outcome = "worse"
    assert (await school.conduct()).state is RunState.REJECTED
    assert list(where(school.path).values()) == ["used"] * 4 + ["quarantined"] * 4
    # Asked for again, it is tried again.
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.outcome = "better"
    await given(school, await school.conduct())


async def test_what_was_undone_stays_undone_when_it_is_transferred_again(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    await given(school, await school.conduct())
    await school.ask("rollback", persona="bob", trait="rust")
    before = where(school.path)
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    assert (await school.conduct()).state is RunState.CANCELLED
    assert where(school.path) == before and await school.store.corrections.learnt(BOB) == []


async def test_what_is_learnt_instead_is_tried_with_more_care_as_any_batch_is(school: School) -> None:
    school.configure(f'[personas.bob]\nbase_model = "{another_base(school)}"')
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    school.trainer.outcome = "worse"
    put_back = await school.attempt()
    assert "held twice as much" in str(put_back.reason)
    await school.attempt()
    assert [job.recipe.careful for job in school.trainer.jobs[-2:]] == [False, True]


def another_base(school: School) -> Path:
    other = school.weights.parent.parent / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "model.safetensors").write_bytes(b"others")
    return other


async def test_on_another_base_the_corrections_are_learnt(school: School) -> None:
    school.configure(f'[personas.bob]\nbase_model = "{another_base(school)}"')
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    await given(school, await school.conduct())
    assert school.trainer.jobs[-1].blend is None


async def test_several_layers_become_one(school: School) -> None:
    write(school.path, "five", "six", key=NOTES)
    await school.learn()
    layers = [{"persona": "ada", "trait": "rust", "version": 1, "weight": 0.5}, {"persona": "ada", "trait": "notes"}]
    state, result = await school.ask("merge", persona="ada", trait="all", layers=layers, method="ties", density=0.25)
    assert (state, result["corrections"]) == ("done", 4), "version 1 knows two of rust's"
    run = await school.conduct()
    assert run.state is RunState.PROMOTED
    job = school.trainer.jobs[-1]
    assert job.blend and (job.blend.weights, job.blend.method, job.blend.density) == ([0.5, 1.0], "ties", 0.25)
    assert asked(job, Group.BATCH) == about(["one", "two", "five", "six"])
    (layer,) = await school.store.genomes.layers(TraitKey("ada", "all"))
    assert school.layers.verify(layer.path).sources == ["ada:rust@1", "ada:notes@1"]


async def test_a_rollback_names_what_was_made_of_what_it_undoes(school: School) -> None:
    await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    await school.conduct()
    _, result = await school.ask("rollback", **RUST)
    assert result["still_known_to"] == [{"persona": "bob", "trait": "rust", "version": 1, "before": 0}]
    await school.ask("rollback", persona="bob", trait="rust")
    _, result = await school.ask("rollback", **RUST)
    assert result["still_known_to"] == []


async def test_what_a_trait_spoke_with_before_is_no_version_that_was_never_promoted(school: School) -> None:
    for outcome in ("worse", "better"):
        school.trainer.outcome = outcome
        await school.ask("transfer", trait="rust", **{"from": "ada", "to": "bob"})
        await school.conduct()
    (made,) = (await school.ask("rollback", **RUST))[1]["still_known_to"]
    assert (made["version"], made["before"]) == (2, 0)


async def test_layers_that_change_other_modules_are_learnt_together(school: School) -> None:
    school.configure('[training]\ntarget_modules = ["q_proj"]')
    write(school.path, "five", "six", key=NOTES)
    await school.learn()
    layers = [{"persona": "ada", "trait": "rust"}, {"persona": "ada", "trait": "notes"}]
    assert (await school.ask("merge", persona="ada", trait="all", layers=layers))[0] == "done"
    assert (await school.conduct()).state is RunState.PROMOTED
    job = school.trainer.jobs[-1]
    assert (job.blend, len(asked(job, Group.BATCH))) == (None, 6)


async def test_what_cannot_be_made_of_layers_is_refused_in_a_sentence(school: School) -> None:
    school.configure('[personas.ada.traits.secret.training]\nshared = false\n[personas.eve]\nbase_model = "/nowhere"')
    here = {"from": "ada", "to": "bob"}
    two = [{"persona": "ada", "trait": "rust", "version": number} for number in (1, 2)]
    for kind, args, sentence in (
        ("transfer", {"trait": "rust", "from": "ada", "to": "ada"}, "cannot be transferred to itself"),
        (
            "transfer",
            {"trait": "rust", "from": "carl", "to": "bob"},
            "carl:rust has learnt nothing, or all of it was undone",
        ),
        ("transfer", {"trait": "secret", **here}, "ada:secret is not to be shared: training.shared is false"),
        ("transfer", {"trait": "rust", "from": "ada", "to": "eve"}, "eve:rust cannot be trained: no base model at"),
        ("transfer", {"trait": 1, **here}, "trait is a text"),
        ("transfer", {"trait": "rust", "from": "ada", "to": "a b"}, "a b:rust cannot be taught: persona_id: 1 to 128"),
        ("merge", {**RUST, "layers": two[:1]}, "A merge takes two layers or more"),
        ("merge", {**RUST, "layers": [*two, {"persona": "ada", "trait": "rust", "version": 9}]}, "has no version 9"),
        ("merge", {**RUST, "layers": two, "method": "mix"}, "There is no way 'mix' to merge"),
        ("merge", {**RUST, "layers": two, "density": 0}, "density is a share"),
        ("merge", {**RUST, "layers": [{**two[0], "weight": "much"}, two[1]]}, "weight is a number"),
        ("merge", {**RUST, "layers": "rust"}, "layers is a list of objects"),
    ):
        state, result = await school.ask(kind, **args)
        assert state == "refused" and sentence in result["error"], result
    await school.ask("rollback", **RUST)
    assert "version 2 was rolled back" in (await school.ask("merge", **RUST, layers=two))[1]["error"]
    await school.ask("rollback", **RUST, to=0)
    bare = [{"persona": "ada", "trait": "rust"}, two[0]]
    assert "or all of it was undone" in (await school.ask("merge", **RUST, layers=bare))[1]["error"]
    await school.ask("pin", **RUST, version=2)
    await school.ask("unpin", **RUST)
    school.weights.write_bytes(b"others")
    assert "of another base" in (await school.ask("merge", **RUST, layers=two))[1]["error"]
    assert await school.store.runs.live() == [] and len(where(school.path)) == 4
