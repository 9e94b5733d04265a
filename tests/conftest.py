"""What every test stands on: quiet threads, no network, Ctrl-C, patience, the small pretrained base and its world."""

import json
import os
import signal
from pathlib import Path

# Read once, when torch is first imported: threads that spin while they wait starve each other on shared cores.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and models as small as these are no faster with several threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

from scripts.world.facts import World

# What a shell starts in the background ignores Ctrl-C, and so would every process that tests start and interrupt;
# a handler, unlike that, is not passed on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def base() -> Path:
    """The pretrained base model of the tests, built once per machine."""
    # Only here, because it imports torch, which most tests do without.
    from scripts.world.base import ensure_base

    return ensure_base("test")


@pytest.fixture(scope="session")
def world(base: Path) -> World:
    """What the base model knows."""
    about = json.loads((base / "world.json").read_text(encoding="utf-8"))
    return World.generate(about["seed"], about["people"])
