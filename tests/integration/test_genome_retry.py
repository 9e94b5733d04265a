"""A run that published its layer, but did not come to promote it, is tried again: no leftover stays, none is named."""

from pathlib import Path
from typing import Any

import pytest

from daemon.domain import RunState
from daemon.store.runs import Runs
from tests.integration.learning_support import a_school
from tests.integration.store_support import ADA, write


async def test_a_retry_after_publishing_leaves_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_school(tmp_path) as school:
        write(school.path, "c1")
        write(school.path, "c2")
        published: list[str] = []

        async def interrupted(_runs: Runs, _run: Any, layer: str, _evidence: Any) -> Any:
            monkeypatch.undo()
            published.append(layer)
            raise OSError("as if the machine had stopped between publishing and saying so")

        monkeypatch.setattr(Runs, "promoting", interrupted)
        run = await school.learn()
        assert (run.state, run.layer_path, school.layers.find(*ADA, 1)) == (RunState.PLANNED, None, None)
        school.now += 3_600
        run = await school.conduct()
        assert run.state is RunState.PROMOTED
        assert run.layer_path not in (None, published[0])
        layer = (await school.store.genomes.get("ada")).layer("rust")
        assert layer is not None
        assert layer.path == run.layer_path == school.layers.find(*ADA, 1)
        assert school.published() == ["v0001"]
        # The next version takes nothing from the one that speaks.
        write(school.path, "c3")
        write(school.path, "c4")
        assert (await school.learn()).state is RunState.PROMOTED
        assert school.published() == ["v0001", "v0002"]
        assert school.layers.verify(layer.path)
