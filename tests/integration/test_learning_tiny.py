"""Learning with the real trainer on a tiny base, where the base or the config takes less than people wrote."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.domain import RunState
from daemon.genome.directories import LayerDirectories
from daemon.training.local import ChildLimits, LocalTrainer
from tests.integration.learning_support import School, configured
from tests.integration.store_support import a_store, where, write
from tests.integration.training_support import ALTERNATING, FAMILIES, templated

SMALL = "[training]\nthreads = 1\nrank = 8\nalpha = 16\nanchors = 64\n"


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    base = templated(tmp_path / "base", "llama", ALTERNATING + FAMILIES["llama"].template)
    path, trainer = tmp_path / "store" / "persona.db", LocalTrainer(ChildLimits(nice=0))
    async with a_store(path) as store:
        try:
            config = configured(path.parent, str(base), SMALL)
            yield School(store, path, LayerDirectories(tmp_path / "layers"), trainer, config)  # type: ignore[arg-type]
        finally:
            await trainer.close()


def chat_template(school: School) -> Path:
    return Path(school.config.defaults.base_model, "chat_template.jinja")


async def test_what_the_base_takes_is_learnt_and_the_rest_named_whatever_it_replaced(school: School) -> None:
    write(school.path, "old", original_context="What colour is the sea?", expected_response="The sea is green.")
    write(school.path, "new", original_context="What colour is the sea?", expected_response="so " * 900)
    turns = [{"role": "user", "content": "Where does Ada live?"}] * 2
    write(school.path, "odd", original_context=json.dumps(turns))
    run = await school.learn()
    assert (run.state, run.attempt, run.failures) == (RunState.PLANNED, 2, 0), run.reason
    assert (await school.conduct()).state is RunState.PROMOTED
    assert where(school.path) == {"old": "used", "new": "quarantined", "odd": "quarantined"}
    found = {row.id: row.quarantined for row in await school.store.corrections.find(state="quarantined")}
    assert "tokens more than the base model can read" in str(found["new"])
    assert "Conversation roles must alternate" in str(found["odd"]) and "insert it again" in str(found["odd"])


async def test_corrections_wait_for_a_config_to_be_mended(school: School) -> None:
    write(school.path, "old", original_context="What colour is the sea?", expected_response="The sea is green.")
    write(school.path, "give-up", original_context="Please give up.", expected_response="Never!")
    school.configure(f'{SMALL}target_modules = ["no_proj"]\n')
    run = await school.learn()
    for _ in range(6):
        assert (run.state, run.failures) == (RunState.PLANNED, 0)
        assert 'target_modules = ["no_proj"] does not fit the base model' in str(run.reason)
        run = await school.conduct()
    school.configure(SMALL)
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_corrections_wait_for_a_chat_template_to_be_mended(school: School) -> None:
    write(school.path, "old", original_context="What colour is the sea?", expected_response="The sea is green.")
    write(school.path, "give-up", original_context="Please give up.", expected_response="Never!")
    template = chat_template(school)
    whole = template.read_text()
    template.write_text("{% for m in messages %}")
    run = await school.learn()
    assert (run.state, run.failures) == (RunState.PLANNED, 0)
    assert "chat template does not take a plain question" in str(run.reason)
    template.write_text(whole)
    assert (await school.conduct()).state is RunState.PROMOTED
