"""Tables at every width: nothing is lost that must not be, no word is broken, every line fits."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from daemon.cli.tables import Table, pairs

WHY = "It answers 3 of 3 corrections as expected, 1 before; 5 of 5 learnt before are kept."
TRAIT = "customer-support-assistant:refund-policy"


def drawn(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(table, crop=False)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def runs() -> Table:
    table = Table("id", "trait", "v", "note", "why", right=["v"], names=["trait"], wrap=["why"], optional=["note"])
    table.add_row("9ebacb89", TRAIT, "12", "the oldest waited 24 h", WHY)
    table.add_row("a6c4fc8f", "ada:rust", "3", "an admin asked", "")
    return table


def test_where_there_is_room_a_row_is_a_line() -> None:
    header, first, second = drawn(runs(), 1000)
    assert header.split() == ["id", "trait", "v", "note", "why"]
    assert first.split("  ") == ["9ebacb89", TRAIT, "12", "the oldest waited 24 h", WHY]
    assert second.split() == ["a6c4fc8f", "ada:rust", "3", "an", "admin", "asked"]


def test_what_is_optional_goes_before_anything_is_squeezed() -> None:
    header, first, *_ = drawn(runs(), 140)
    assert "note" not in header
    assert first.endswith(WHY)


def test_a_sentence_is_wrapped_beside_its_row_while_it_has_room_there() -> None:
    lines = drawn(runs(), 100)
    assert lines[1].startswith(f"9ebacb89  {TRAIT}  12  It answers 3 of 3")
    column = lines[1].index("It answers")
    assert lines[2][:column].strip() == ""
    assert " ".join(line[column:].strip() for line in lines[1:4]).strip().startswith(WHY)


def test_where_it_has_none_it_stands_below_its_row_and_names_are_shortened_last() -> None:
    lines = drawn(runs(), 62)
    assert lines[0].split() == ["id", "trait", "v"]
    assert lines[1] == "  why"
    assert lines[2].split() == ["9ebacb89", TRAIT, "12"]
    assert " ".join(" ".join(lines[3:5]).split()) == WHY
    assert lines[5].split() == ["a6c4fc8f", "ada:rust", "3"]
    shortened = drawn(runs(), 40)[2].split()
    assert shortened[0::2] == ["9ebacb89", "12"]
    assert shortened[1].startswith("customer")
    assert "…" in shortened[1]
    assert shortened[1].endswith("policy")


@pytest.mark.parametrize("width", [40, 50, 60, 79, 80, 81, 100, 120, 200])
def test_every_line_fits_and_no_word_is_broken(width: int) -> None:
    lines = drawn(runs(), width)
    assert max(map(len, lines)) <= width
    assert set(WHY.split()) <= set(" ".join(lines).split())


def test_texts_of_which_the_beginning_will_do_share_a_line() -> None:
    table = Table("id", "asked", "expected", cut=["asked", "expected"])
    table.add_row("1", "Where is it? " * 10, "Here.")
    table.add_row("2", "two\nlines", "[bold]\x1b[31m")
    _, first, second = drawn(table, 60)
    assert first.startswith("1   Where is it? Where is it? Where")
    assert first.endswith("…  Here.")
    assert len(first) == 60 - len("[bold]�[31m") + len("Here.")
    assert second.split() == ["2", "two", "lines", "[bold]�[31m"]


def test_columns_that_nothing_fills_are_left_out() -> None:
    table = Table("runtime", "error", "state", wrap=["error"])
    table.add_row("main", "", "converged")
    assert drawn(table, 80)[0].split() == ["runtime", "state"]


def test_pairs_keep_the_lines_of_a_value_and_leave_out_what_is_empty() -> None:
    lines = drawn(pairs([("user", "one\ntwo"), ("reason", None), ("layer", ""), ("state", Text("used"))]), 80)
    assert lines == ["user   one", "       two", "state  used"]


def test_wide_characters_are_counted_as_they_are_shown() -> None:
    table = Table("a", "b", cut=["a"])
    table.add_row("日本語", "x")
    header, row = drawn(table, 80)
    assert header.index("b") == 8
    assert row.index("x") == 5


def test_a_word_that_is_longer_than_the_room_is_folded_and_not_lost() -> None:
    table = Table("name", "says", wrap=["says"], header=False)
    table.add_row("layers", "x" * 100)
    assert "".join(line.removeprefix("layers").strip() for line in drawn(table, 60)) == "x" * 100
