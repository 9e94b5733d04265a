"""Fingerprints of base models, and genome files."""

import os
import shutil
from pathlib import Path

import pytest

from daemon.errors import BaseModelUnusable, LayerError
from daemon.genome import fingerprint, genome_file
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.genome_file import GenomeFile, TraitEntry


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"):
        (folder / name).write_text(f"what {name} says")
    return folder


def test_a_copy_has_the_same_fingerprint(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    (tmp_path / "copy/README.md").touch()
    (tmp_path / "copy/world.json").touch()
    assert base_fingerprint(tmp_path / "copy") == base_fingerprint(base)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
def test_another_model_has_another_fingerprint(base: Path, name: str) -> None:
    before = base_fingerprint(base)
    (base / name).write_text("something else")
    changed = base_fingerprint(base)
    (base / name).rename(base / "moved-away")
    (base / "model-2.safetensors").touch()
    assert len({before, changed, base_fingerprint(base)}) == 3


def test_weights_are_hashed_again_only_when_they_changed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_fingerprint(base)
    hashed: list[Path] = []

    def sha256_of(path: Path) -> str:
        hashed.append(path)
        return "0" * 64

    monkeypatch.setattr(fingerprint, "sha256_of", sha256_of)
    base_fingerprint(base)
    assert hashed == []
    os.utime(base / "model.safetensors", ns=(1, 1))
    base_fingerprint(base)
    assert hashed == [base / "model.safetensors"]


def test_a_folder_without_weights_is_no_base_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelUnusable, match=r"has no \*.safetensors file"):
        base_fingerprint(tmp_path / "nowhere")


GENOME = GenomeFile(
    persona="ada",
    revision=3,
    base_model="tiny",
    system_prompt="Be brief.",
    traits={"rust": TraitEntry(layer="l1", version=2, directory="ada/rust/v0002-01234567")},
)


def test_a_genome_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    root = tmp_path / "layers"
    path = genome_file.write(root, GENOME)
    assert path == root / "genomes/ada.json"
    assert genome_file.read(path) == GENOME
    assert path.stat().st_mode & 0o777 == 0o600
    genome_file.write(root, GENOME.model_copy(update={"revision": 4}))
    assert genome_file.read(path).revision == 4
    assert [entry.name for entry in path.parent.iterdir()] == ["ada.json"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is no JSON at line 1, column 0"),
        (b"{", "it is no JSON at line 1, column 1"),
        (b"\xff\xfe", "it is no JSON at line 1, column 1"),
        (b"[]", "its content must be an object"),
        (b'{"persona": "ada"}', "revision is missing"),
        (b'{"persona": "eve", "revision": 1, "base_model": "tiny"}', "is of the persona eve"),
        (b'{"persona": "../eve", "revision": 1, "base_model": "tiny"}', "persona is not written as it must be"),
        (b'{"persona": "ada", "revision": -1, "base_model": "tiny"}', "revision must be at least 0"),
        (b'{"persona": "ada", "revision": "two", "base_model": "tiny"}', "revision must be a whole number"),
        (b'{"persona": "ada", "revision": 2, "base_model": null}', "base_model must be text"),
        (b'{"persona": "ada", "revision": 2, "base_model": "tiny", "traits": []}', "traits must be an object"),
        (b'{"persona": "ada", "revision": 2, "base_model": "tiny", "traits": {"a": 1}}', "traits.a must be an object"),
    ],
)
def test_a_malformed_genome_file_gets_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "ada.json"
    path.write_bytes(content)
    with pytest.raises(LayerError, match=rf"genome file ada.json .*{sentence}"):
        genome_file.read(path)


def test_a_genome_file_that_is_not_there_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match="No such file"):
        genome_file.read(tmp_path / "ada.json")
