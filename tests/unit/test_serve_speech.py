"""Text leaves in whole characters, and nothing of a stop sequence leaves."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.serve.speech import Speech


def decode(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode(errors="replace")


def pieces(text: bytes, *stops: str) -> tuple[list[str], Speech]:
    speech = Speech(decode, stops)
    said = []
    for byte in text:
        said.append(speech.add(byte))
        if speech.stopped:
            return said, speech
    return [*said, speech.finish()], speech


@given(st.text())
def test_every_piece_is_whole_characters(text: str) -> None:
    text = text.replace("\N{REPLACEMENT CHARACTER}", "")
    said, _ = pieces(text.encode())
    assert "".join(said) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in said)


@given(st.binary())
def test_bytes_that_are_no_text_are_marked_not_lost(data: bytes) -> None:
    said, _ = pieces(data)
    assert "".join(said).rstrip("\N{REPLACEMENT CHARACTER}") == decode(data).rstrip("\N{REPLACEMENT CHARACTER}")


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stop_sequence_ends_the_text_where_it_begins(text: str, stops: list[str]) -> None:
    said, speech = pieces(text.encode(), *stops)
    # It stops as soon as one is complete, even where a longer one began earlier.
    heard = next((text[:end] for end in range(1, len(text) + 1) if any(stop in text[:end] for stop in stops)), None)
    assert speech.stopped == (heard is not None)
    expected = text if heard is None else heard[: min(heard.find(stop) for stop in stops if stop in heard)]
    assert "".join(said) == expected


@pytest.mark.parametrize("cut", range(1, 3))
def test_an_unfinished_character_is_dropped(cut: int) -> None:
    said, _ = pieces("né 日".encode()[:-cut])
    assert "".join(said) == "né "
