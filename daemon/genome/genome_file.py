"""genomes/<persona>.json: the one thing a server follows."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.errors import LayerError
from daemon.genome.files import make_private, write_whole
from daemon.genome.validation import first_problem

PERSONA_ID = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$"
TRAIT_ID = r"^[a-z0-9_-][a-z0-9._-]{0,127}$"


class TraitEntry(BaseModel):
    """The layer one trait speaks with, `directory` relative to the layers root; `model` is its name at the runtime."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    layer: str
    version: int = Field(ge=1)
    directory: str
    runtime: str | None = None
    model: str | None = None


class GenomeFile(BaseModel):
    """What a persona speaks with; a trait without a layer is absent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    persona: str = Field(pattern=PERSONA_ID)
    revision: int = Field(ge=0)
    base_model: str
    system_prompt: str = ""
    traits: dict[str, TraitEntry] = {}


def genomes_directory(root: Path) -> Path:
    """Where the genome files lie, below the layers root."""
    return root / "genomes"


def genome_path(root: Path, persona: str) -> Path:
    """Where one persona's genome file lies."""
    return genomes_directory(root) / f"{persona}.json"


def write(root: Path, genome: GenomeFile) -> Path:
    """Replace a persona's genome file atomically and durably; raises OSError."""
    make_private(genomes_directory(root), root)
    path = genome_path(root, genome.persona)
    write_whole(path, genome.model_dump_json(indent=2) + "\n")
    return path


def read(path: Path) -> GenomeFile:
    """Read a genome file; raises LayerError when it is malformed or of another persona than its name says."""
    try:
        genome = GenomeFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise LayerError(f"The genome file {path.name} is not usable: {first_problem(error)}.") from None
    except OSError as error:
        raise LayerError(f"The genome file {path.name} cannot be read: {error.strerror or error}.") from None
    if genome.persona != path.stem:
        raise LayerError(f"The genome file {path.name} is of the persona {genome.persona}.")
    return genome
