"""Genomes in memory: layers beside each other, leased, evicted, and the base unharmed by them."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from daemon.errors import LayerIncomplete, LayerStale
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.persona_genome import LayerShelf, PersonaGenome
from daemon.training.engine.base import Base, load_base
from tests.integration.serve_support import House, house_at, make_base, unwarned

HEADER = (
    (62).to_bytes(8, "little") + b'{"a": {"dtype": "NONE", "shape": [1], "data_offsets": [0, 4]}}'.ljust(62) + b"1234"
)
"""A header of the right form with nothing in it that can be read."""
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def base(house: House) -> Base:
    return load_base(str(house.base))


def shelf_of(house: House, base: Base, budget: int = 2**30) -> LayerShelf:
    return LayerShelf(base.model, base_fingerprint(house.base), house.directories, budget)


@torch.inference_mode()
def logits(base: Base) -> torch.Tensor:
    output: torch.Tensor = base.model(input_ids=IDS).logits
    return output


def by_peft(house: House, path: str) -> torch.Tensor:
    """What PEFT itself computes with a layer."""
    fresh = load_base(str(house.base))
    with unwarned(), torch.inference_mode():
        model = PeftModel.from_pretrained(fresh.model, str(house.root / path)).eval()
        output: torch.Tensor = model(input_ids=IDS).logits
    return output


def test_every_skill_speaks_as_its_layer_and_the_base_as_itself(house: House, base: Base) -> None:
    plain = logits(base)
    rust, go = house.publish(1), house.publish(1, "go")
    eve = house.publish(1, persona="eve")
    shelf = shelf_of(house, base)
    ada_genome, eve_genome = PersonaGenome("ada", shelf), PersonaGenome("eve", shelf)
    ada_genome.follow(house.revise(1, rust=rust, go=go))
    eve_genome.follow(house.revise(1, persona="eve", rust=eve))
    for genome, trait, layer in ((ada_genome, "rust", rust), (eve_genome, "rust", eve), (ada_genome, "go", go)):
        with genome.activate_skill(trait) as path:
            assert path == layer.path
            assert torch.equal(logits(base), by_peft(house, layer.path))
            assert not torch.allclose(logits(base), plain)
        with genome.activate_skill("unheard-of") as path:
            assert path is None
            assert torch.equal(logits(base), plain)


def test_the_base_is_itself_again_after_every_layer_is_gone(house: House, base: Base) -> None:
    plain = logits(base)
    shelf = shelf_of(house, base)
    for version in (1, 2):
        shelf.activate(house.publish(version).path)
    shelf.budget = 0
    shelf.trim()
    assert (shelf.size, shelf.loads, shelf.evictions) == (0, 2, 2)
    assert torch.equal(logits(base), plain)
    shelf.budget = 2**30
    again = house.publish(3)
    shelf.activate(again.path)
    assert torch.equal(logits(base), by_peft(house, again.path))


def test_the_longest_unused_goes_first_and_the_leased_never(house: House, base: Base) -> None:
    layers = [house.publish(version).path for version in range(1, 6)]
    shelf = shelf_of(house, base)
    shelf.activate(layers[0])
    shelf.budget = 2 * shelf.size
    shelf.activate(layers[1])
    shelf.activate(layers[0])
    shelf.activate(layers[2])
    assert [shelf.holds(path) for path in layers[:3]] == [True, False, True]
    lease = shelf.lease(layers[0])
    shelf.name("ada", [layers[2]])
    shelf.activate(layers[3])
    # 0 is leased and 2 is named, but a named one goes before the budget does.
    assert [shelf.holds(path) for path in layers[:4]] == [True, False, False, True]
    with shelf.lease(layers[3]):
        shelf.activate(layers[4])
        assert [path for path in layers if shelf.holds(path)] == [layers[0], layers[3], layers[4]]
    lease.release()
    lease.release()
    shelf.trim()
    assert shelf.size <= shelf.budget
    assert not shelf.holds(layers[0])


def test_a_named_layer_outlives_an_unnamed_one(house: House, base: Base) -> None:
    old, new, other = (house.publish(version).path for version in (1, 2, 3))
    shelf = shelf_of(house, base)
    shelf.activate(old)
    shelf.name("ada", [old])
    shelf.budget = 2 * shelf.size
    shelf.activate(new)
    shelf.activate(other)
    assert [shelf.holds(path) for path in (old, new, other)] == [True, False, True]


def test_a_revision_that_cannot_be_loaded_leaves_the_old_one(house: House, base: Base) -> None:
    shelf = shelf_of(house, base)
    genome = PersonaGenome("ada", shelf)
    good = house.publish(1)
    genome.follow(house.revise(1, rust=good))
    swapped = house.publish(1, "go")
    with pytest.raises(LayerIncomplete, match="which it is not"):
        genome.follow(house.revise(3, rust=swapped))
    assert (genome.revision, genome.layer("rust")) == (1, good.path)
    with genome.activate_skill("rust"):
        assert torch.equal(logits(base), by_peft(house, good.path))


def test_a_layer_of_another_base_leaves_its_trait_to_the_base(house: House, base: Base) -> None:
    plain = logits(base)
    shelf = shelf_of(house, base)
    genome = PersonaGenome("ada", shelf)
    stale, go = house.publish(2, base_fingerprint="0" * 64), house.publish(1, "go")
    with pytest.raises(LayerStale, match="trained on another base"):
        shelf.read(stale.path)
    genome.follow(house.revise(2, rust=stale, go=go))
    assert (genome.revision, genome.layer("rust"), genome.layer("go")) == (2, None, go.path)
    with genome.activate_skill("rust"):
        assert torch.equal(logits(base), plain)


def test_where_the_base_itself_was_replaced_the_server_is_what_must_be_restarted(house: House, tmp_path: Path) -> None:
    house = House(house.root, Path(shutil.copytree(house.base, tmp_path / "base")))
    genome = PersonaGenome("ada", shelf_of(house, load_base(str(house.base))))
    for file in make_base(tmp_path / "other", seed=1).iterdir():
        file.replace(house.base / file.name)
    (sentence,) = genome.read(house.revise(1, rust=house.publish(1))).stale
    assert sentence == (
        f"ada:rust@1 speaks as the base: {house.base} was replaced since this server loaded it; restart persona serve."
    )


def test_a_layer_that_does_not_fit_the_base_is_refused_and_leaves_nothing(house: House, base: Base) -> None:
    plain = logits(base)
    shelf = shelf_of(house, base)
    read = shelf.read(house.publish(1).path)
    other = copy.deepcopy(read.config)
    other.target_modules = ["nowhere"]
    empty = copy.deepcopy(read.config)
    empty.r = 0
    for config, weights, sentence in (
        (read.config, {key: tensor for key, tensor in read.weights.items() if "lora_A" in key}, "modules differ at"),
        (read.config, {key: torch.zeros(3, 3) for key in read.weights}, "its weights have other shapes than the model"),
        (read.config, {f"{key}.more": tensor for key, tensor in read.weights.items()}, "modules differ at"),
        (other, read.weights, "the model has none of the modules that it is for"),
        (empty, read.weights, "PEFT can do nothing with its adapter_config.json"),
    ):
        bad = type(read)(read.path, read.manifest, config, weights)
        with pytest.raises(LayerIncomplete, match=rf"^The layer {read.path} does not fit the base model: .*{sentence}"):
            shelf.put(bad)
        assert torch.equal(logits(base), plain)
    shelf.put(read)
    shelf.activate(read.path)
    assert torch.equal(logits(base), by_peft(house, read.path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("adapter_config.json", b"{", "is not readable: its adapter_config.json is none that PEFT knows."),
        ("adapter_config.json", b'{"peft_type": "NONE"}', "is not readable: its adapter_config.json is none that PEFT"),
        ("adapter_config.json", b'{"peft_type": "LOHA"}', "is no plain LoRA adapter; only those can be served."),
        ("adapter_model.safetensors", HEADER, "is not readable: its adapter_model.safetensors is damaged."),
    ],
)
def test_what_is_no_adapter_gets_a_sentence(house: House, base: Base, name: str, content: bytes, sentence: str) -> None:
    staged = house.directories.staging("r1", 1)
    shutil.copytree(house.root / house.publish(1).path, staged)
    (staged / name).write_bytes(content)
    manifest = house.directories.verify(house.publish(1).path).model_copy(update={"version": 2})
    layer = house.directories.publish(staged, manifest)
    with pytest.raises(LayerIncomplete, match=rf"^The layer {layer.path} {sentence}"):
        shelf_of(house, base).read(layer.path)


def test_damage_to_the_files_does_not_reach_a_loaded_layer(house: House, base: Base) -> None:
    layer = house.publish(1)
    expected = by_peft(house, layer.path)
    shelf = shelf_of(house, base)
    shelf.activate(layer.path)
    weights = house.root / layer.path / "adapter_model.safetensors"
    weights.write_bytes(b"\0" * 10)
    shutil.rmtree(house.root / layer.path)
    assert torch.equal(logits(base), expected)
