"""manifest.json: what a layer is, what it learned from, and what its files must contain."""

from typing import Any, ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from daemon.errors import LayerIncomplete
from daemon.genome.validation import first_problem


class FileRecord(BaseModel):
    """One file of a layer directory; `size` in bytes."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """Everything known of one layer; `files` is filled in when the layer is published."""

    FILE: ClassVar[str] = "manifest.json"

    # A newer program may have written more than this one knows.
    model_config = ConfigDict(frozen=True, extra="ignore")

    persona: str
    trait: str
    domain: str = ""
    version: int = Field(ge=1)
    parent: str | None = None
    """The id of the layer that this one started from or replaces."""
    provider: str = "local"
    base_model: str
    base_fingerprint: str
    rank: int = Field(ge=1)
    alpha: float
    target_modules: list[str] | str
    dataset_hash: str = ""
    learnt: list[str] = []
    """Ids of the corrections it was trained to answer."""
    rehearsed: list[str] = []
    """Ids of earlier corrections and of affirmations that it was trained to keep."""
    superseded: list[str] = []
    """Ids of corrections, of batch and history, that later ones of the same context replaced in its data."""
    unusable: list[str] = []
    """Ids of earlier corrections that could not be trained on over its base."""
    sources: list[str] = []
    """Names of the layers that it was made of, where it was not trained."""
    metrics: dict[str, Any] = {}
    files: dict[str, FileRecord] = {}
    created_at: AwareDatetime
    program_version: str

    @property
    def name(self) -> str:
        """How people write it: PERSONA:TRAIT@VERSION."""
        return f"{self.persona}:{self.trait}@{self.version}"

    @property
    def taught(self) -> list[str]:
        """Ids of all the corrections that its data was made of."""
        return [*self.learnt, *self.rehearsed, *self.superseded]

    @property
    def known(self) -> set[str]:
        """Ids of all that it need not be taught any more: what it was taught, and what it cannot be."""
        return {*self.taught, *self.unusable}

    @staticmethod
    def parse(text: str | bytes) -> "Manifest":
        """Read a manifest; raises LayerIncomplete when it is none."""
        try:
            return Manifest.model_validate_json(text)
        except ValidationError as error:
            raise LayerIncomplete(f"its {Manifest.FILE} is not readable: {first_problem(error)}") from None

    def text(self) -> str:
        """The content of the file."""
        return self.model_dump_json(indent=2) + "\n"
