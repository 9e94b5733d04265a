"""The sections of config.toml: every key with its default and the sentence that stands above it in the file."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from daemon.config.section import Section
from daemon.config.values import (
    SQLITE,
    BaseModelName,
    CronTime,
    Duration,
    Folder,
    Host,
    HttpUrl,
    Method,
    Modules,
    OptionalFile,
    OptionalUrl,
    PersonaId,
    PositiveDuration,
    StoreUrl,
    Token,
    TraitSlug,
    is_loopback,
)


class Store(Section):
    """Where corrections, runs and genomes are kept."""

    url: StoreUrl = "sqlite:///var/persona.db"
    """The SQLite file, in a folder of its own: sqlite:///relative/path or sqlite:////absolute/path."""

    @property
    def path(self) -> Path:
        """The database file."""
        return Path(self.url.removeprefix(SQLITE))


class Layers(Section):
    """Where trained layers are kept."""

    directory: Folder = "var/layers"
    """The folder of all layers, and of the genome files that the server follows."""


class Defaults(Section):
    """What a persona speaks with that says nothing of its own."""

    base_model: BaseModelName = ""
    """The model that layers are trained for: a folder, or a model id of the hub such as "org/name"."""
    system_prompt: str = ""
    """The system message of requests that bring none."""


class Triggers(Section):
    """When the corrections of a trait are trained; any one of these is enough."""

    min_corrections: int = Field(10, ge=1)
    """Train when this many corrections are pending."""
    min_severity: float = Field(0.0, ge=0)
    """Train when the severities of the pending corrections add up to this; 0 is off."""
    max_wait: Duration = 86_400.0
    """Train when the oldest pending correction arrived this long ago."""
    min_for_timer: int = Field(1, ge=1)
    """Fewest corrections that the timer or the cron time trains."""
    quiet: Duration = 2.0
    """Let a burst finish: wait until none arrived for this long, but at most ten times as long."""
    cron: CronTime = ""
    """Train at these times too, as in "0 3 * * *" for three every night; name weekdays mon to sun; empty is off."""


class Training(Section):
    """How a layer is trained."""

    trainer: Literal["local"] = "local"
    """Who trains: "local" is this machine."""
    policy: Literal["until-learned", "fixed"] = "until-learned"
    """When training stops: "until-learned" when the batch is answered as expected, "fixed" after exactly `epochs`."""
    method: Method = "lora"
    """How a layer is made: "lora"; "rslora", for large ranks; "qlora", trained and judged over the base in 4 bits."""
    objective: Literal["sft", "dpo", "orpo"] = "sft"
    """What training aims at: "sft" is the expected answers; "dpo" and "orpo" also lead away from the original ones."""
    beta: float = Field(0.1, gt=0)
    """How much the original answers count: DPO's temperature, the weight of ORPO's term."""
    rank: int = Field(16, ge=1)
    """Rank of the LoRA matrices: how much a layer can hold."""
    alpha: int = Field(32, ge=1)
    """LoRA's scaling: a layer counts with alpha / rank, an "rslora" one with alpha over the square root of rank."""
    target_modules: Modules = "all-linear"
    """Which modules of the base model get a layer: "all-linear", or a list of their names."""
    epochs: int = Field(3, ge=1)
    """How often "fixed" goes through the batch."""
    learning_rate: float = Field(2e-4, gt=0, le=1)
    """Learning rate of "fixed"; "until-learned" sets its own."""
    batch_size: int = Field(4, ge=1)
    """Examples per training step."""
    anchors: int = Field(1024, ge=0)
    """Questions that the base makes up and answers, to be held where nothing is corrected; 0 asks it nothing at all."""
    max_steps: int = Field(800, ge=1)
    """Budget of "until-learned": it gives up after this many steps."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Start of the random numbers, so that a training can be repeated."""
    checkpoint: Duration = 30.0
    """How often a running training is saved, to go on from there after a crash or a restart; 0 is never."""
    timeout: PositiveDuration = 7_200.0
    """Hard limit of one attempt, after which it is ended."""
    heartbeat: PositiveDuration = 120.0
    """Longest silence of the training process, after which it counts as hung and is ended."""
    idle_timeout: Duration = 600.0
    """How long the training process stays loaded with nothing to do; 0 is for ever."""
    shared: bool = True
    """Whether other personas may be taught what was learnt here, by `persona genome transfer` and `merge`."""
    max_attempts: int = Field(5, ge=1)
    """Attempts of one run before its corrections are quarantined."""
    max_memory_gb: float = Field(0.0, ge=0)
    """Memory in GB beyond which the training process is ended; 0 is off."""
    threads: int = Field(0, ge=0)
    """Processor threads of training; 0 uses all."""
    nice: int = Field(10, ge=0, le=19)
    """How far training steps back behind other programs, 0 to 19."""


class Gate(Section):
    """What a new layer must prove before it is served."""

    enabled: bool = True
    """Whether a new layer is compared with the served one at all."""
    min_efficacy: float = Field(0.9, ge=0, le=1)
    """Share of the batch that must be answered as expected, 0 to 1."""
    min_generality: float = Field(0.7, ge=0, le=1)
    """Share of rewordings that must be answered as expected, 0 to 1, if the base knows any; of three one may miss."""
    max_forgotten: float = Field(0.05, ge=0, le=1)
    """Margin of what was learnt before: the share that may be lost, 0 to 1."""
    max_affirmations_lost: float = Field(0.0, ge=0, le=1)
    """Margin of the affirmed answers: the share that may change, 0 to 1."""
    max_drifted: float = Field(0.1, ge=0, le=1)
    """Margin of answers that no correction is about: the share that may change, 0 to 1."""
    critical: OptionalFile = ""
    """A file of critical probes, one JSON object a line: what must always, or never, be said; none may be lost."""
    suspects: int = Field(6, ge=0)
    """Trainings that a rejection may cost to find out which corrections are to blame; 0 is none."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """How sure a margin must be kept, 0.5 to 1; of fewer than 6 / margin questions, what is seen to be lost counts."""


class Judge(Section):
    """A model that asks corrections in other words, and says whether answers mean the same; with no url, none."""

    url: OptionalUrl = ""
    """Where its API is, in OpenAI's form, as in "http://127.0.0.1:11434/v1"; elsewhere it is shown what is public."""
    model: str = ""
    """Its name there."""
    token: Token = SecretStr("")
    """Its API key; empty sends none; better given as PERSONA_JUDGE__TOKEN."""
    paraphrases: int = Field(2, ge=0)
    """In how many other words each correction is asked at the gate."""
    timeout: PositiveDuration = 60.0
    """How long an answer may take; the gate decides without those that do not come."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.url and not self.model:
            raise ValueError("has a url, and no model; set model to its name there")
        return self


class Serve(Section):
    """The server that personas answer from, in the form of OpenAI's API."""

    host: Host = "127.0.0.1"
    """Address to listen at; any other than this machine's own needs a token."""
    port: int = Field(8765, ge=1, le=65_535)
    """Port to listen at."""
    token: Token = SecretStr("")
    """Bearer token that requests must carry; empty asks for none; better given as PERSONA_SERVE__TOKEN."""
    memory_gb: float = Field(2.0, gt=0)
    """Memory in GB for loaded layers; the longest unused ones make room."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer in tokens when a request names no limit."""
    threads: int = Field(0, ge=0)
    """Processor threads of answering; 0 uses all."""

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.token.get_secret_value() and not is_loopback(self.host):
            raise ValueError('listens beyond this machine without a token; set token, or host = "127.0.0.1"')
        return self

    @property
    def url(self) -> str:
        """Where this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Service(Section):
    """How the daemon runs."""

    grace: Duration = 20.0
    """How long a stop may take before what still runs is ended."""
    beat: PositiveDuration = 10.0
    """How often the store is looked at even when no file event arrives."""


class Log(Section):
    """What the log says, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important events to show: debug, info, warning or error."""
    format: Literal["auto", "json", "pretty"] = "auto"
    """Form of a line: "json", "pretty", or "auto", which is pretty on a terminal."""


class Runtime(Section):
    """A server that personas answer from; with none, it is the one at [serve]."""

    kind: Literal["embedded"] = "embedded"
    """What runs there: "embedded" is `persona serve`."""
    url: HttpUrl = "http://127.0.0.1:8765"
    """Where it is reached."""
    token: Token = SecretStr("")
    """Bearer token that it asks for; empty is the one of [serve]; better given as PERSONA_RUNTIMES__NAME__TOKEN."""


class Trait(Section):
    """What one trait of a persona does differently; keys left out are the persona's."""

    triggers: Triggers = Triggers()
    """Keys of [triggers] for this trait."""
    training: Training = Training()
    """Keys of [training] for this trait."""
    gate: Gate = Gate()
    """Keys of [gate] for this trait."""


class Persona(Section):
    """What one persona does differently; keys left out are those of the sections above."""

    base_model: BaseModelName = ""
    """The base model of this persona, instead of the one in [defaults]."""
    system_prompt: str = ""
    """The system message of this persona, instead of the one in [defaults]."""
    triggers: Triggers = Triggers()
    """Keys of [triggers] for this persona."""
    training: Training = Training()
    """Keys of [training] for this persona."""
    gate: Gate = Gate()
    """Keys of [gate] for this persona."""
    traits: dict[TraitSlug, Trait] = Field({})
    """Its traits that do something differently, by name."""


class Sections(Section):
    """All of config.toml."""

    store: Store = Store()
    """Where corrections, runs and genomes are kept."""
    layers: Layers = Layers()
    """Where trained layers are kept."""
    defaults: Defaults = Defaults()
    """What a persona speaks with that says nothing of its own."""
    triggers: Triggers = Triggers()
    """When the corrections of a trait are trained."""
    training: Training = Training()
    """How a layer is trained."""
    gate: Gate = Gate()
    """What a new layer must prove before it is served."""
    judge: Judge = Judge()
    """A model that helps the gate."""
    serve: Serve = Serve()
    """The server that personas answer from."""
    service: Service = Service()
    """How the daemon runs."""
    log: Log = Log()
    """What the log says."""
    runtimes: dict[PersonaId, Runtime] = Field({})
    """The servers that personas answer from, by name; with none, it is the one at [serve]."""
    personas: dict[PersonaId, Persona] = Field({})
    """The personas that do something differently, by id."""
