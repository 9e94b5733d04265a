"""config.toml: every key documented, every refusal a sentence, every override where it belongs."""

import ast
import inspect
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from daemon.config import sections, settings
from daemon.config.default import render_default
from daemon.config.section import Section
from daemon.config.sections import Gate, Persona, Sections, Training, Trait, Triggers
from daemon.config.settings import Config, find_config, restart_needed
from daemon.config.values import CENTURY, Duration, duration_text, is_loopback, seconds
from daemon.errors import ConfigInvalid
from daemon.training.engine.job import Job, Recipe

ROOT = Path(__file__).parents[2]
SECTIONS = [
    model
    for _, model in inspect.getmembers(sections, inspect.isclass)
    if issubclass(model, Section) and model is not Section
]
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a text as if it were a config file, with the environment given as keywords."""

    def loaded(text: str = "", **env: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return Config.load(path, env)

    return loaded


def refusal(load: Load, text: str = "", **env: str) -> str:
    """What a refused config is answered with, without the file's name."""
    with pytest.raises(ConfigInvalid) as refused:
        load(text, **env)
    lines = str(refused.value).splitlines()
    assert all("config.toml" in line or "environment PERSONA_" in line for line in lines), lines
    return "\n".join(line.partition(": ")[2] for line in lines)


# Keys, defaults, sentences


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_key_has_a_default_and_a_sentence(model: type[BaseModel]) -> None:
    assert model.__doc__ and model.__doc__.endswith(".")
    for key, field in model.model_fields.items():
        assert not field.is_required(), f"{model.__name__}.{key} has no default"
        assert (field.description or "").endswith("."), f"{model.__name__}.{key} has no sentence"


@pytest.mark.parametrize("model", SECTIONS, ids=lambda model: model.__name__)
def test_every_default_passes_its_own_checks(model: type[BaseModel]) -> None:
    assert model.model_validate(model().model_dump(exclude_unset=False)) == model()


def test_the_promised_defaults(load: Load, tmp_path: Path) -> None:
    config = load()
    assert config.store.path == tmp_path / "var/persona.db"
    assert config.store.url == f"sqlite:///{tmp_path}/var/persona.db"
    assert config.layers.directory == str(tmp_path / "var/layers")
    assert config.triggers == Triggers(
        min_corrections=10, min_severity=0, max_wait=86_400, min_for_timer=1, quiet=2, cron=""
    )
    assert (config.training.trainer, config.training.rank, config.training.alpha) == ("local", 16, 32)
    assert (config.training.method, config.training.objective, config.training.beta) == ("lora", "sft", 0.1)
    assert config.training.checkpoint == Job.__dataclass_fields__["checkpoint_every"].default == 30
    assert (config.serve.host, config.serve.port, config.serve.url) == ("127.0.0.1", 8765, "http://127.0.0.1:8765")
    assert config.gate.enabled and config.runtimes == {} and config.personas == {}
    assert config.source == tmp_path / "config.toml"


def test_training_defaults_are_the_recipes() -> None:
    recipe = Recipe()
    training = Training()
    configured = set(Recipe.__slots__) - {"careful"}  # that is for a second try
    assert {key: getattr(training, key) for key in configured} == {key: getattr(recipe, key) for key in configured}


def test_values_do_not_change(load: Load) -> None:
    with pytest.raises(ValidationError):
        load().triggers.min_corrections = 1  # type: ignore[misc]


# The file that `persona init` writes


def test_the_repositorys_file_is_the_rendered_one() -> None:
    assert (ROOT / "config.toml").read_text(encoding="utf-8") == render_default()


def test_the_rendered_file_says_exactly_the_defaults(load: Load) -> None:
    assert load(render_default()) == load("")
    told = {(name, key) for name, table in tomllib.loads(render_default()).items() for key in table}
    assert told == {
        (name, key) for name, value in Sections() if isinstance(value, Section) for key in type(value).model_fields
    }


def test_the_rendered_examples_load_when_uncommented(load: Load) -> None:
    text = render_default()
    examples = text[text.index("# [runtimes.main]") :]
    config = load("\n".join(line[2:] for line in examples.splitlines() if "[" in line[:3] or " = " in line))
    assert config.runtimes["main"].kind == "embedded"
    assert config.persona("ada").triggers.max_wait == 3_600
    assert config.persona("ada", "typescript-expert").triggers.min_corrections == 25


def test_rendering_takes_values_and_quotes_them(load: Load) -> None:
    prompt = 'say "hi"\n\\ünder \x7f 😀'
    text = render_default({"defaults.base_model": "/m", "defaults.system_prompt": prompt, "triggers.max_wait": 90})
    config = load(text)
    assert (config.defaults.base_model, config.defaults.system_prompt) == ("/m", prompt)
    assert config.triggers.max_wait == 90 and 'max_wait = "1m30s"' in text
    with pytest.raises(KeyError):
        render_default({"triggers.nothing": 1})


# Durations


@pytest.mark.parametrize(
    ("written", "length"),
    [("30s", 30), ("24h", 86_400), ("1h30m", 5_400), ("2d", 172_800), ("250ms", 0.25), ("1.5s", 1.5), (7, 7), ("7", 7)],
)
def test_durations_are_seconds(written: object, length: float) -> None:
    assert TypeAdapter(Duration).validate_python(written) == length


@pytest.mark.parametrize(
    "written",
    ["", "h", "soon", "1h junk 30m", "1..5s", "-1s", "-1", -1, True, None, [], float("nan"), 1e300, "9" * 400],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(written)


@given(st.integers(0, int(CENTURY) * 1_000))
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert seconds(duration_text(milliseconds / 1_000)) == pytest.approx(milliseconds / 1_000, abs=1e-6)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3_600 + minutes * 60 + rest


@given(st.text())
def test_any_text_is_a_duration_or_a_sentence(text: str) -> None:
    try:
        assert 0 <= seconds(text) <= CENTURY
    except ValueError as refused:
        assert "duration" in str(refused)


# The environment


def test_the_environment_beats_the_file(load: Load) -> None:
    config = load(
        "[triggers]\nmin_corrections = 3\nquiet = '1s'",
        PERSONA_TRIGGERS__MIN_CORRECTIONS="5",
        PERSONA_GATE__ENABLED="false",
        PERSONA_TRAINING__TARGET_MODULES="q_proj, v_proj",
        PERSONA_SERVE__TOKEN="t0",
        PERSONA_RUNTIMES__MAIN__URL="http://h:1/",
    )
    assert (config.triggers.min_corrections, config.triggers.quiet) == (5, 1)
    assert config.gate.enabled is False
    assert config.training.target_modules == ["q_proj", "v_proj"]
    assert config.serve.token == SecretStr("t0")
    assert config.runtimes["main"].url == "http://h:1"


def test_variables_that_name_no_section_are_not_ours(load: Load) -> None:
    env = {"PERSONA_CACHE": "x", "PERSONA_CONFIG": "y", "PERSONA_": "", "PERSONA_A__B": "1", "TRIGGERS__CRON": "x"}
    assert load("", **env, PERSONA_SERVE_PORT="tcp://10.0.0.1:80") == load()


def test_the_environment_reaches_a_persona_by_its_folded_name(load: Load) -> None:
    text = "[personas.Ada-2.traits.'typescript.expert'.triggers]\ncron = ''\n[personas.ada-2]"
    prefix = "PERSONA_PERSONAS__"
    config = load(
        text.replace("\n[personas.ada-2]", ""),
        **{
            f"{prefix}ADA_2__TRAITS__TYPESCRIPT_EXPERT__TRIGGERS__MIN_CORRECTIONS": "4",
            f"{prefix}BOB__SYSTEM_PROMPT": "b",
        },
    )
    assert config.persona("Ada-2", "typescript.expert").triggers.min_corrections == 4
    assert config.persona("bob").system_prompt == "b"
    # Two names that fold alike: a variable means neither, and makes one of its own.
    assert "ada_2" in load(text, **{f"{prefix}ADA_2__SYSTEM_PROMPT": "x"}).personas


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "PERSONA_TRIGGERS__MIN_CORECTIONS",
            "5",
            "triggers.min_corections is not known; did you mean min_corrections?",
        ),
        ("PERSONA_TRIGGERS__MIN_CORRECTIONS", "x", 'triggers.min_corrections = "x" does not fit; give a whole number.'),
        ("PERSONA_SERVE", "a secret", "serve is no table; give its keys below [serve]."),
        ("PERSONA_LOG__", "x", 'log."" is not known; the keys here are level and format.'),
    ],
)
def test_a_bad_variable_is_named(load: Load, name: str, value: str, sentence: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load("", **{name: value})
    assert str(refused.value) == f"environment {name}: {sentence}"


def test_the_process_environment_is_the_default(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.setenv("PERSONA_TRIGGERS__MIN_CORRECTIONS", "6")
    assert Config.load(tmp_path / "config.toml").triggers.min_corrections == 6


# Refusals


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[trigers]", "trigers is not known; did you mean triggers?"),
        ("[triggers]\nmin_corections = 1", "triggers.min_corections is not known; did you mean min_corrections?"),
        (
            "[personas.ada.traits.x.triggers]\nmin_corections = 1",
            "personas.ada.traits.x.triggers.min_corections is not known; did you mean min_corrections?",
        ),
        ("min_corrections = 1", "min_corrections belongs elsewhere; write it below [triggers]."),
        ("[gate]\nrank = 1", "gate.rank belongs elsewhere; write it below [training]."),
        ("[training.log]", "training.log belongs elsewhere; write [log]."),
        ("[personas.a]\nrank = 1", "personas.a.rank belongs elsewhere; write it below [personas.a.training]."),
        (
            "[personas.a.traits.x]\nbase_model = 'm'",
            "personas.a.traits.x.base_model belongs elsewhere; write it below [personas.a].",
        ),
        (
            "[personas.a.serve]",
            "personas.a.serve cannot differ here, [serve] holds for all; "
            "what can is base_model, system_prompt, triggers, training, gate and traits.",
        ),
        (
            "[personas.a.traits.x.store]",
            "personas.a.traits.x.store cannot differ here, [store] holds for all; "
            "what can is triggers, training and gate.",
        ),
        ("[log]\nzzz = 1", "log.zzz is not known; the keys here are level and format."),
        ("source = 'x'", None),
        ("_source = 'x'", None),
        ("[triggers]\nmin_corrections = 'ten'", 'triggers.min_corrections = "ten" does not fit; give a whole number.'),
        ("[triggers]\nmin_corrections = 1.5", "triggers.min_corrections = 1.5 does not fit; give a whole number."),
        ("[triggers]\nmin_corrections = true", "triggers.min_corrections = true is no number; give one."),
        ("[triggers]\nmin_corrections = 0", "triggers.min_corrections = 0 is too small; give 1 or more."),
        ("[triggers]\nmin_severity = 'x'", 'triggers.min_severity = "x" does not fit; give a number.'),
        (
            "[triggers]\nmin_severity = inf",
            "triggers.min_severity = inf does not fit; give a number that is not infinite.",
        ),
        ("[training]\nlearning_rate = 0", "training.learning_rate = 0 is too small; give more than 0."),
        ("[training]\nseed = 4294967296", "training.seed = 4294967296 is too large; give 4294967295 or less."),
        ("[gate]\nenabled = 'perhaps'", 'gate.enabled = "perhaps" does not fit; give true or false.'),
        ("[defaults]\nsystem_prompt = 1", "defaults.system_prompt = 1 does not fit; give a text in quotes."),
        ("gate = 5", "gate is no table; give its keys below [gate]."),
        ("personas = 5", "personas is no table; give its keys below [personas]."),
        ("personas.ada = 5", "personas.ada is no table; give its keys below [personas.ada]."),
        ("[[triggers]]", "triggers is no table; give its keys below [triggers]."),
        ("[log]\nlevel = 'loud'", 'log.level = "loud" is not known; give "debug", "info", "warning" or "error".'),
        ("[training]\ntrainer = 'ray'", 'training.trainer = "ray" is not known; give "local".'),
        (
            "[training]\nmethod = 'dora'",
            'training.method = "dora" makes layers that vLLM, among other servers, cannot load; '
            'give "lora", "rslora" or "qlora".',
        ),
        (
            "[personas.ada.traits.x.training]\nmethod = 'VeRA'",
            'personas.ada.traits.x.training.method = "VeRA" makes layers that vLLM, among other servers, cannot load; '
            'give "lora", "rslora" or "qlora".',
        ),
        (
            "[training]\nmethod = 'pissa'",
            'training.method = "pissa" changes the base model beneath its layer, which all layers of a server share; '
            'give "lora", "rslora" or "qlora".',
        ),
        ("[training]\nmethod = 'full'", 'training.method = "full" is not known; give "lora", "rslora" or "qlora".'),
        ("[training]\nmethod = ['lora']", 'training.method is not known; give "lora", "rslora" or "qlora".'),
        ("[training]\nobjective = 'ppo'", 'training.objective = "ppo" is not known; give "sft", "dpo" or "orpo".'),
        ("[training]\nbeta = 0", "training.beta = 0 is too small; give more than 0."),
        ("[training]\nbeta = true", "training.beta = true is no number; give one."),
        ("[runtimes.main]\nkind = 'vllm'", 'runtimes.main.kind = "vllm" is not known; give "embedded".'),
        (
            "[runtimes.main]\nurl = 'ftp://u:secret@h'",
            'runtimes.main.url is no web address; write it as "http://127.0.0.1:8765".',
        ),
        (
            "[runtimes.main]\nurl = 'http://[::1'",
            'runtimes.main.url is no web address; write it as "http://127.0.0.1:8765".',
        ),
        (
            "[triggers]\nmax_wait = 'soon'",
            'triggers.max_wait = "soon" is no duration; write it as "30s", "24h" or "1h30m".',
        ),
        (
            "[triggers]\nmax_wait = true",
            'triggers.max_wait = true is no duration; write it as "30s", "24h" or "1h30m".',
        ),
        (
            "[triggers]\nmax_wait = -1",
            'triggers.max_wait = -1 is not between 0 and a hundred years; give a duration such as "30s" or "24h".',
        ),
        ("[service]\nbeat = 0", 'service.beat = 0 is 0; give a longer duration, such as "30s".'),
        (
            "[triggers]\ncron = '99 * * * *'",
            'triggers.cron = "99 * * * *" is no cron time; '
            'write minute, hour, day, month and weekday, as in "0 3 * * *".',
        ),
        (
            "[training]\ntarget_modules = []",
            'training.target_modules is no set of modules; write "all-linear", or a list such as ["q_proj", "v_proj"].',
        ),
        (
            "[store]\nurl = 'postgresql://u:secret@h/db'",
            "store.url names PostgreSQL, but this version keeps its store in SQLite only; use sqlite:///PATH.",
        ),
        ("[layers]\ndirectory = ' '", 'layers.directory = " " is empty; name a folder, such as "var/layers".'),
        ('[layers]\ndirectory = "a\\u0000"', None),
        (
            "[layers]\ndirectory = '~nobody-by-that-name/x'",
            'layers.directory = "~nobody-by-that-name/x" starts with a ~ that stands for no home folder; '
            "write the whole path.",
        ),
        (
            "[personas.'a b']",
            'personas."a b" is no name; use 1 to 128 of A-Z a-z 0-9 . _ - and no leading dot.',
        ),
        (
            "[personas.ada.traits.X]",
            "personas.ada.traits.X is no trait; use 1 to 128 of a-z 0-9 . _ - and no leading dot.",
        ),
        (
            "[serve]\nhost = '0.0.0.0'",
            'serve listens beyond this machine without a token; set token, or host = "127.0.0.1".',
        ),
        ("[serve]\nhost = ''", 'serve.host = "" is no host; write an address such as "127.0.0.1", or a name.'),
        ("[serve]\ntoken = 'se cret'", None),
        ("[serve]\ntoken = 5", "serve.token does not fit; give a text in quotes."),
    ],
)
def test_a_refusal_is_a_sentence(load: Load, text: str, sentence: str | None) -> None:
    told = refusal(load, text)
    assert sentence is None or told == sentence
    assert told.endswith((".", "?")) and "\n" not in told
    assert not any(word in told for word in ("secret", "se cret", "pydantic", "http://errors", "Input", "validation"))


@pytest.mark.parametrize("url", ["", "x.db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?mode=ro"])
def test_a_store_is_a_sqlite_file(load: Load, url: str) -> None:
    assert refusal(load, f"[store]\nurl = '{url}'").startswith("store.url names no SQLite file; write ")


@pytest.mark.parametrize("name", [".ada", "a/b", "", "é", "a" * 129, "a\\n"])
def test_names_are_what_the_store_takes(load: Load, name: str) -> None:
    assert "is no name" in refusal(load, f'[personas."{name}"]')
    assert "is no trait" in refusal(load, f'[personas.a.traits."{name}"]')


def test_every_problem_gets_its_sentence(load: Load) -> None:
    told = refusal(load, "[trigers]\n[gate]\nenabled = 3\n[personas.a.gate]\nmin_efficacy = 2", PERSONA_LOG__LEVEL="x")
    assert len(told.splitlines()) == 4


def test_a_token_is_never_shown(load: Load) -> None:
    config = load("[serve]\ntoken = 'sesame'\nhost = '0.0.0.0'")
    assert config.serve.token.get_secret_value() == "sesame"
    assert "sesame" not in f"{config!r} {config} {config.model_dump_json()}"
    assert "sesame" not in refusal(load, "[serve]\ntokn = 'sesame'")
    assert "sesame" not in refusal(load, "token = 'sesame'")
    assert "sesame" not in refusal(load, "[serve]\ntoken = ['sesame']")


def test_a_refusal_carries_no_other_error_and_survives_pickling(load: Load) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        load("[serve]\ntoken = 5")
    assert refused.value.__suppress_context__ and refused.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


LITERALS = ["''", "'x'", "1", "-1", "1.5", "nan", "true", "[]", "[1]", "{}", "{a = 1}", "1979-05-27", "'\\u0000'"]


@pytest.mark.parametrize("literal", [*LITERALS, '"\\u0000"', "9" * 400, '"""\n"""', "'" + "x" * 9_999 + "'"])
def test_any_value_is_taken_or_refused_with_a_sentence(load: Load, literal: str) -> None:
    keys = [f"{name}.{key}" for name, table in tomllib.loads(render_default()).items() for key in table]
    for key in [*keys, *Sections.model_fields, "personas.a", "personas.a.gate", "personas.a.traits", "runtimes.m.url"]:
        try:
            load(f"{key} = {literal}")
        except ConfigInvalid as refused:
            assert all(len(line) < 400 and line.endswith((".", "?")) for line in str(refused).splitlines())


def test_a_variable_that_is_no_text_is_refused_readably(load: Load) -> None:
    told = refusal(load, PERSONA_TRIGGERS__CRON="\udcff", PERSONA_LOG__LEVEL="\udcff", PERSONA_STORE__URL="\udcff")
    assert len(told.encode().splitlines()) == 3


# Files that cannot be read


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[triggers]\nmin_corrections = \n", ", line 2, column 19: not valid TOML: invalid value; correct it there."),
        (b"a = [", ", at its end: not valid TOML: invalid value; correct it there."),
        (b"[a.b]\n[a.b]", ", line 2, column 5: not valid TOML: cannot declare a.b twice; correct it there."),
        (b"[a]\n[a]", ", line 2, column 3: not valid TOML: cannot declare a twice; correct it there."),
        (b"a = " + b"9" * 5_000, ": not valid TOML: a number has too many digits; correct it there."),
        (b"a = " + b"[" * 100_000, ": values are nested too deeply; write them flat."),
        (b"a = '\xff'", ": byte 6 is not UTF-8; save the file as UTF-8."),
    ],
)
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid) as refused:
        Config.load(path, {})
    assert str(refused.value) == f"{path}{sentence}"


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbf[triggers]\nmin_corrections = 3\n")
    assert Config.load(path, {}).triggers.min_corrections == 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "x"), "there is no such file; run `persona init`"),
        (NotADirectoryError(20, "x"), "there is no such file"),
        (IsADirectoryError(21, "x"), "this is a folder; name the file in it with --config"),
        (PermissionError(13, "x"), "this user may not read it; change its owner or its mode"),
        (OSError(5, "Input/output error"), "it cannot be read (Input/output error); check the disk"),
    ],
)
def test_a_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, error: OSError, words: str) -> None:
    def fails(_: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(ConfigInvalid) as refused:
        Config.load(Path("some.toml"), {})
    assert str(refused.value).startswith(f"some.toml: {words}") and str(refused.value).endswith(".")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="there is no such file"):
        Config.load(tmp_path / "none.toml", {})
    with pytest.raises(ConfigInvalid, match="this is a folder"):
        Config.load(tmp_path, {})


# Paths


def test_paths_are_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "models/small").mkdir(parents=True)
    config = load(
        "store.url = 'sqlite:////srv/p.db'\nlayers.directory = '/srv/layers'\ndefaults.base_model = 'models/small'\n"
        "[personas]\na.base_model = 'org/name'\nb.base_model = './org/name'\nc.base_model = 'gpt'"
    )
    assert (config.store.path, config.layers.directory) == (Path("/srv/p.db"), "/srv/layers")
    assert config.persona("nobody").base_model == str(tmp_path / "models/small")
    assert config.persona("a").base_model == "org/name"
    assert config.persona("b").base_model == str(tmp_path / "org/name")
    assert config.persona("c").base_model == str(tmp_path / "gpt")


def test_a_home_folder_is_written_with_a_tilde(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = load("[defaults]\nbase_model = '~/model'\n[store]\nurl = 'sqlite:///~/p.db'")
    assert (config.defaults.base_model, config.store.path) == ("/home/ada/model", Path("/home/ada/p.db"))


def test_a_name_too_long_for_a_folder_is_still_a_name(load: Load) -> None:
    name = "org/" + "n" * 300
    assert load(f"[defaults]\nbase_model = '{name}'").defaults.base_model == name


def test_a_relative_config_path_becomes_absolute(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.chdir(tmp_path)
    assert Config.load(Path("config.toml"), {}).source == tmp_path / "config.toml"


# Where the file is


def test_the_argument_then_the_variable_then_here_then_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", tmp_path / "system.toml")
    with pytest.raises(ConfigInvalid, match="run `persona init`"):
        find_config(None, {})
    (tmp_path / "system.toml").touch()
    assert find_config(None, {}) == tmp_path / "system.toml"
    (tmp_path / "config.toml").touch()
    assert find_config(None, {}) == Path("config.toml")
    assert find_config(None, {"PERSONA_CONFIG": "other.toml"}) == Path("other.toml")
    assert find_config(Path("mine.toml"), {"PERSONA_CONFIG": "other.toml"}) == Path("mine.toml")


def test_a_folder_that_may_not_be_entered_is_left_to_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Path) -> bool:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "is_file", denied)
    assert find_config(None, {}) == Path("config.toml")


# Personas and traits

LAYERED = """
[defaults]
base_model = "org/base"
system_prompt = "default"
[triggers]
min_corrections = 3
min_for_timer = 2
[gate]
min_efficacy = 0.5
[personas.ada]
system_prompt = ""
triggers.min_corrections = 10
training.rank = 8
[personas.ada.traits.x]
triggers.quiet = "9s"
training.rank = 4
gate.enabled = false
"""


def test_a_trait_overlays_its_persona_overlays_the_defaults(load: Load) -> None:
    config = load(LAYERED)
    ada, x, other = config.persona("ada"), config.persona("ada", "x"), config.persona("bob", "x")
    # 10 is the program's default, and still beats the file's 3: it was written down.
    assert (ada.triggers.min_corrections, ada.triggers.min_for_timer, ada.triggers.quiet) == (10, 2, 2)
    assert (x.triggers.min_corrections, x.triggers.min_for_timer, x.triggers.quiet) == (10, 2, 9)
    assert (other.training.rank, ada.training.rank, x.training.rank) == (16, 8, 4)
    assert x.gate == Gate(enabled=False, min_efficacy=0.5) and ada.gate.enabled
    assert (ada.base_model, ada.system_prompt, other.system_prompt) == ("org/base", "", "default")
    assert config.persona("ada", "unheard-of") == ada


@pytest.mark.parametrize("model", [Persona, Trait])
def test_only_sections_without_rules_across_keys_can_be_overridden(model: type[Section]) -> None:
    """A partial override is validated on its own, which a rule across keys would make wrong."""
    for field in model.model_fields.values():
        if isinstance(field.default, Section):
            assert not type(field.default).__pydantic_decorators__.model_validators


CHANGES = {
    "[defaults]\nbase_model = 'o/other'": True,
    "[defaults]\nsystem_prompt = 'x'": True,
    "[gate]\nmax_forgotten = 0.1": True,
    "[triggers]\nmin_corrections = 4": False,
    "[training]\ntimeout = '1h'": False,
    "[training]\nthreads = 2": False,
    "[training]\ncheckpoint = 0": False,
    "[training]\nmethod = 'rslora'": True,
    "[training]\nobjective = 'dpo'": True,
    "[training]\nbeta = 0.2": True,
    "[training]\nmethod = 'lora'\nobjective = 'sft'\nbeta = 0.1": False,
    "[training]\ntarget_modules = ['q_proj']": True,
} | {f"[training]\n{key} = {value}": True for key, value in {"rank": 8, "alpha": 8, "epochs": 1, "seed": 1}.items()}


@pytest.mark.parametrize(("text", "changes"), CHANGES.items())
def test_the_hash_changes_with_what_decides_a_result(load: Load, text: str, changes: bool) -> None:
    before, after = load().persona("ada").settings_hash, load(text).persona("ada").settings_hash
    assert len(before) == 16 and (before != after) is changes


def test_every_number_of_the_recipe_is_in_the_hash() -> None:
    assert set(settings._RESULT) == set(Recipe.__slots__) - {"careful"}


def test_the_hash_is_the_same_everywhere(load: Load) -> None:
    # Stored with runs: a change of this value makes every rejected batch due again.
    assert load().persona("ada").settings_hash == "fa0c49530551bfca"


# Reload


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("[triggers]\nmin_corrections = 3\n[service]\ngrace = 1\n[personas.ada]\n", []),
        ("[store]\nurl = 'sqlite:///x.db'", ["store.url"]),
        (
            "[layers]\ndirectory = 'x'\n[serve]\ntoken = 'x'\nport = 1",
            ["layers.directory", "serve.port", "serve.token"],
        ),
    ],
)
def test_a_reload_says_what_needs_a_restart(load: Load, text: str, keys: list[str]) -> None:
    assert restart_needed(load(), load(text)) == keys


# Other promises


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:8765"), ("::", "http://[::1]:8765"), ("example.org", "http://example.org:8765")],
)
def test_where_the_server_is_reached(load: Load, host: str, url: str) -> None:
    assert load(f"[serve]\ntoken = 't'\nhost = '{host}'").serve.url == url


def test_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"]))


def test_importing_the_config_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "peft", "openai", "apscheduler", "sqlalchemy")
    program = "import sys, daemon.config.settings, daemon.config.default; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())


def test_the_config_imports_only_the_bottom_of_the_house() -> None:
    for path in (ROOT / "daemon/config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("daemon"):
                assert (node.module or "").startswith(("daemon.config", "daemon.domain", "daemon.errors")), path
