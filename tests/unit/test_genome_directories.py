"""Layers on disk: staged, published whole, verified; anything broken gets a sentence."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from daemon.errors import LayerError, LayerIncomplete, PersonaError
from daemon.genome.directories import LayerDirectories
from daemon.genome.manifest import Manifest


def manifest(version: int = 7, **changes: Any) -> Manifest:
    return Manifest(
        persona="ada",
        trait="rust",
        version=version,
        base_model="tiny",
        base_fingerprint="f" * 64,
        rank=4,
        alpha=8,
        target_modules="all-linear",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        program_version="0.1.0",
    ).model_copy(update=changes)


@pytest.fixture
def layers(tmp_path: Path) -> LayerDirectories:
    return LayerDirectories(tmp_path / "layers")


def stage(layers: LayerDirectories, run: str = "r1", fill: float = 1.0) -> Path:
    staged = layers.staging(run, 1)
    staged.mkdir()
    save_file({"a": numpy.full((4, 4), fill, dtype=numpy.float32)}, staged / "adapter_model.safetensors")
    (staged / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    return staged


def test_a_published_layer_is_verified_and_private(layers: LayerDirectories) -> None:
    published = layers.publish(stage(layers), manifest())
    directory = layers.root / published.path
    assert published.path == f"ada/rust/v0007-{published.content_hash[:8]}"
    assert layers.verify(published.path).files.keys() == {"adapter_model.safetensors", "adapter_config.json"}
    for path in (layers.root, directory.parent, directory):
        assert path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    assert layers.find("ada", "rust", 7) == published.path
    assert layers.find("ada", "rust", 8) is None


def test_the_name_follows_from_the_content(layers: LayerDirectories) -> None:
    first = layers.publish(stage(layers), manifest())
    again = layers.publish(stage(layers, "r2"), manifest())
    other = layers.publish(stage(layers, "r3", fill=2.0), manifest(8))
    assert first == again
    assert first.content_hash != other.content_hash


def test_publishing_again_after_a_crash_answers_the_same(layers: LayerDirectories) -> None:
    staged = stage(layers)
    first = layers.publish(staged, manifest())
    assert layers.publish(staged, manifest()) == first
    with pytest.raises(LayerIncomplete, match="no candidate of ada:rust@8"):
        layers.publish(staged, manifest(8))


def test_what_an_earlier_attempt_published_is_replaced(layers: LayerDirectories) -> None:
    learnt = ["c1", "c2"]
    others = [
        layers.publish(stage(layers, "r0", fill=5.0), manifest(6, learnt=["c0"])),
        layers.publish(stage(layers, "r2", fill=6.0), manifest(70, learnt=learnt)),
        layers.publish(stage(layers, "r3", fill=7.0), manifest(learnt=learnt, trait="go")),
    ]
    first = layers.publish(stage(layers, fill=1.0), manifest(learnt=learnt))
    # Nobody came to promote it; the run is tried again, without the correction that was set aside meanwhile.
    second = layers.publish(stage(layers, fill=2.0), manifest(learnt=["c2"]))
    assert first.path != second.path
    assert not (layers.root / first.path).exists()
    assert layers.find("ada", "rust", 7) == second.path
    for layer in (second, *others):
        assert layers.verify(layer.path)
    # And once more, with the content of the first attempt.
    assert layers.publish(stage(layers, fill=1.0), manifest(learnt=learnt)) == first
    assert not (layers.root / second.path).exists()
    assert [path for path in (layers.root / ".staging").iterdir() if not path.name.startswith("r")] == []


def test_a_layer_of_another_store_is_not_touched(layers: LayerDirectories) -> None:
    before = layers.publish(stage(layers, fill=1.0), manifest(learnt=["of another store"]))
    created = datetime(2026, 1, 3, tzinfo=UTC)
    after = layers.publish(stage(layers, fill=2.0), manifest(learnt=["c1"], created_at=created))
    assert layers.verify(before.path) and layers.verify(after.path)
    assert layers.find("ada", "rust", 7) == after.path
    older = manifest(learnt=["c2"], created_at=datetime(2026, 1, 1, tzinfo=UTC))
    layers.publish(stage(layers, fill=3.0), older)
    assert layers.find("ada", "rust", 7) == after.path, "the one made last, whatever its hash"


def test_a_layer_that_is_not_promoted_can_be_retracted(layers: LayerDirectories) -> None:
    kept = layers.publish(stage(layers, fill=1.0), manifest(6))
    gone = layers.publish(stage(layers, fill=2.0), manifest(7, learnt=["c1", "c2"]))
    layers.retract("ada", "rust", 7, ["of another store"])
    assert layers.verify(gone.path)
    for trait in ("rust", "rust", "never-was"):
        layers.retract("ada", trait, 7, ["c2", "c3"])
    assert (layers.find("ada", "rust", 6), layers.find("ada", "rust", 7)) == (kept.path, None)
    assert not (layers.root / gone.path).exists()
    assert list((layers.root / ".staging").glob("tmp*")) == []


def test_one_attempts_layer_does_not_stand_in_for_anothers(layers: LayerDirectories) -> None:
    staged = stage(layers)
    layers.publish(staged, manifest(metrics={"learnt": 1}))
    with pytest.raises(LayerIncomplete, match="no candidate of ada:rust@7"):
        layers.publish(layers.staging("r1", 2), manifest(metrics={"learnt": 2}))


def test_discard_leaves_nothing_of_a_run(layers: LayerDirectories) -> None:
    staged = stage(layers)
    layers.discard("r1")
    assert not staged.exists()
    layers.discard("never-was")


def _flip_a_byte(directory: Path) -> None:
    weights = directory / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def _truncate(directory: Path) -> None:
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def _link(directory: Path) -> None:
    weights = directory / "adapter_model.safetensors"
    elsewhere = directory.parents[3] / "elsewhere"
    shutil.move(weights, elsewhere)
    weights.symlink_to(elsewhere)


def _move_whole(directory: Path) -> None:
    elsewhere = directory.parents[3] / "elsewhere"
    shutil.move(directory, elsewhere)
    directory.symlink_to(elsewhere)


def _other_version(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_text(path.read_text().replace('"version": 7', '"version": 8'))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered": (_flip_a_byte, "adapter_model.safetensors was altered"),
    "truncated": (_truncate, "bytes instead of"),
    "missing": (lambda d: (d / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    "extra": (lambda d: (d / "adapter_model.bin").touch(), "adapter_model.bin is not in its manifest"),
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "No such file"),
    "empty manifest": (lambda d: (d / "manifest.json").write_text(""), "manifest.json is not readable: it is no"),
    "cut manifest": (lambda d: (d / "manifest.json").write_text('{"'), "it is no JSON at line 1, column 2"),
    "bare manifest": (lambda d: (d / "manifest.json").write_text("{}"), "manifest.json is not readable: persona is"),
    "binary manifest": (lambda d: (d / "manifest.json").write_bytes(b"\xff\xfe"), "manifest.json is not readable"),
    "linked file": (_link, "adapter_model.safetensors is no file of a layer"),
    "linked directory": (_move_whole, "symbolic link"),
    "other version": (_other_version, "its manifest is of ada:rust@8"),
    "no directory": (shutil.rmtree, "No such file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_layer_is_refused_with_a_sentence(layers: LayerDirectories, damage: str) -> None:
    published = layers.publish(stage(layers), manifest())
    do, sentence = DAMAGE[damage]
    do(layers.root / published.path)
    with pytest.raises(LayerIncomplete, match=f"The layer {published.path} is not usable: .*{sentence}"):
        layers.verify(published.path)


@pytest.mark.parametrize(
    "path", ["", "/etc", "../ada/rust/v0001-01234567", "ada/rust", "ada/../v0001-01234567", "a/b/v1-0"]
)
def test_a_path_that_is_no_layer_is_refused(layers: LayerDirectories, path: str) -> None:
    with pytest.raises(LayerIncomplete, match="below the layers directory"):
        layers.verify(path)


def test_a_layer_moved_to_another_trait_is_refused(layers: LayerDirectories) -> None:
    published = layers.publish(stage(layers), manifest())
    moved = published.path.replace("rust", "java")
    (layers.root / "ada/java").mkdir()
    shutil.move(layers.root / published.path, layers.root / moved)
    with pytest.raises(LayerIncomplete, match="its manifest is of ada:rust@7"):
        layers.verify(moved)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("adapter_model.bin", b"pickle", "adapter_model.bin, which is no part of a layer"),
        ("adapter_model.safetensors", b"pickle", "no safetensors file"),
        ("adapter_model.safetensors", b"", "no safetensors file"),
        ("adapter_model.safetensors", (2).to_bytes(8, "little") + b"{}", "holds no tensor"),
        ("adapter_model.safetensors", (9).to_bytes(8, "little") + b'{"a": 12}', "header is not readable"),
    ],
)
def test_a_candidate_that_is_no_layer_is_not_published(
    layers: LayerDirectories, name: str, content: bytes, sentence: str
) -> None:
    staged = stage(layers)
    (staged / name).write_bytes(content)
    with pytest.raises(LayerIncomplete, match=sentence):
        layers.publish(staged, manifest())


def test_a_candidate_without_config_is_not_published(layers: LayerDirectories) -> None:
    staged = stage(layers)
    (staged / "adapter_config.json").unlink()
    with pytest.raises(LayerIncomplete, match=r"lacks adapter_config.json"):
        layers.publish(staged, manifest())


def test_a_name_that_would_leave_the_root_is_refused(layers: LayerDirectories) -> None:
    with pytest.raises(LayerError, match="cannot name a directory"):
        layers.staging("../r1", 1)
    with pytest.raises(LayerError, match="cannot name a directory"):
        layers.publish(stage(layers), manifest().model_copy(update={"persona": ".."}))


def test_another_layer_in_its_place_is_kept(layers: LayerDirectories) -> None:
    published = layers.publish(stage(layers), manifest())
    other = stage(layers, "r2", fill=2.0)
    _flip_a_byte(layers.root / published.path)
    with pytest.raises(LayerIncomplete, match="was altered"):
        layers.publish(stage(layers, "r3"), manifest())
    assert layers.publish(other, manifest(8)).path != published.path


def test_the_daemon_can_handle_layers_without_loading_torch() -> None:
    program = (
        "import sys, daemon.genome.directories, daemon.genome.fingerprint, daemon.genome.genome_file, "
        "daemon.runtimes.embedded, daemon.runtimes.runtime; "
        "sys.exit(' '.join({'torch', 'transformers', 'peft', 'openai'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_root_that_cannot_be_read_gets_a_sentence(layers: LayerDirectories) -> None:
    layers.ensure_readable()
    layers.ensure_writable()
    (layers.root / "genomes").touch()
    with pytest.raises(PersonaError, match="genomes is a file"):
        layers.ensure_readable()


def test_a_root_that_cannot_be_written_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PersonaError, match=r"file is a file"):
        LayerDirectories(tmp_path / "file").ensure_writable()
    with pytest.raises(PersonaError, match=r"file is a file"):
        LayerDirectories(tmp_path / "file/below").ensure_writable()
    LayerDirectories(tmp_path / "new/layers").ensure_writable()
    assert (tmp_path / "new/layers").stat().st_mode & 0o777 == 0o700
