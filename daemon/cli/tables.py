"""Tables without lines, fitted to the terminal: a sentence takes the room that is left, or a line of its own."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from rich.console import Console, ConsoleOptions
from rich.text import Text

from daemon.cli.showing import plain

Cell = str | Text
_GAP: Final = 2
_INDENT: Final = 2
"""How far below its row a sentence begins."""
_SENTENCE: Final = 36
_EXCERPT: Final = 24
"""Columns that a sentence, or a text of which only the beginning is shown, needs to stand beside its row."""
_NAME: Final = 20
"""Columns that are left of a name when it must be shortened."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns are shown, how wide each is, and which of them stand below the row."""

    beside: list[int]
    below: list[int]
    widths: Mapping[int, int]


class Table:
    """Rows below a header; a column that nothing fills is not shown."""

    # rich's own tables have no cell across columns, and break words where room is short.
    def __init__(
        self,
        *columns: str,
        right: Collection[str] = (),  # numbers
        names: Collection[str] = (),  # to be shortened in their middle
        cut: Collection[str] = (),  # texts, of which one line is shown
        wrap: Collection[str] = (),  # sentences, broken at words
        optional: Collection[str] = (),  # left out before anything is squeezed
        header: bool = True,
    ) -> None:
        self._header, self._columns = header, columns
        self._rows = [[Text(name if header else "", style="dim") for name in columns]]
        self._right, self._names, self._cut, self._wrap, self._optional = (
            {index for index, name in enumerate(columns) if name in some}
            for some in (right, names, cut, wrap, optional)
        )

    def add_row(self, *cells: Cell) -> None:
        """One row; a str becomes one line of plain text, a Text is taken as it is."""
        assert len(cells) == len(self._columns), cells
        self._rows.append([Text(_one_line(cell)) if isinstance(cell, str) else cell for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        layout = self._layout(options.max_width)
        for row in self._rows if self._header else self._rows[1:]:
            for line in self._lines(row, layout, console):
                line.rstrip()
                line.no_wrap, line.overflow = True, "ignore"
                yield line

    def _layout(self, room: int) -> Layout:
        """The best arrangement that fits: all in line, without what is optional, names shortened, sentences below."""
        widths = {index: max(_width(row[index]) for row in self._rows) for index in range(len(self._columns))}
        everything = [index for index in widths if any(row[index] for row in self._rows[1:])]
        shown = [index for index in everything if index not in self._optional]
        for columns in (everything, shown):
            if _total(widths, columns) <= room:
                return Layout(columns, [], widths)
        texts = [index for index in shown if index in self._cut | self._wrap]
        fixed = [index for index in shown if index not in texts]
        enough = {index: min(widths[index], _EXCERPT if index in self._cut else _SENTENCE) for index in texts}
        for least in (room, _NAME) if texts else ():
            shortened = self._shortened(widths, fixed, room - _total(enough, texts) - _GAP, least)
            left = room - _total(shortened, fixed) - _GAP
            if left >= _total(enough, texts):
                return Layout(shown, [], {**shortened, **_shared(widths, texts, left)})
        shortened = self._shortened(widths, fixed, room, _NAME)
        return Layout(fixed, texts, {**shortened, **_shared(widths, texts, room - _INDENT)})

    def _shortened(self, widths: Mapping[int, int], columns: list[int], room: int, least: int) -> dict[int, int]:
        """Widths with names made shorter, down to `least`, until the columns fit the room."""
        made = dict(widths)
        while _total(made, columns) > room:
            longest = max(self._names, key=lambda index: made[index], default=None)
            if longest is None or made[longest] <= least:
                break
            made[longest] -= 1
        return made

    def _lines(self, row: Sequence[Text], layout: Layout, console: Console) -> Iterator[Text]:
        blocks = {index: self._block(index, row[index], width, console) for index, width in layout.widths.items()}
        yield from self._joined(blocks, layout.beside, layout, "")
        if any(row[index] for index in layout.below):
            yield from self._joined(blocks, layout.below, layout, " " * _INDENT)

    def _joined(
        self, blocks: Mapping[int, Sequence[Text]], columns: list[int], layout: Layout, indent: str
    ) -> Iterator[Text]:
        for parts in zip_longest(*(blocks[index] for index in columns), fillvalue=Text()):
            line = Text(indent)
            for index, part in zip(columns, parts, strict=True):
                blank = " " * (layout.widths[index] - part.cell_len)
                line.append(blank if index in self._right else "").append_text(part)
                line.append(("" if index in self._right else blank) + " " * _GAP)
            yield line

    def _block(self, index: int, cell: Text, width: int, console: Console) -> Sequence[Text]:
        """A cell as lines of at most `width`."""
        if index in self._wrap:
            return list(cell.wrap(console, width, overflow="fold"))
        made = cell.copy()
        if index in self._names and cell.cell_len > width:
            made.plain = f"{cell.plain[: (width - 1) // 2]}…{cell.plain[-(width // 2) :]}"
        made.truncate(width, overflow="ellipsis")
        return [made]


def pairs(values: Iterable[tuple[str, Any]]) -> Table:
    """Names and values below each other; lines of a value stay lines, and what is empty is left out."""
    made = Table("name", "value", wrap=["value"], header=False)
    for name, value in values:
        if value not in (None, ""):
            made.add_row(Text(name, style="dim"), value if isinstance(value, Text) else Text(plain(str(value))))
    return made


def _one_line(text: str) -> str:
    return " ".join(plain(text).split())


def _width(cell: Text) -> int:
    return max((line.cell_len for line in cell.split(allow_blank=True)), default=0)


def _total(widths: Mapping[int, int], columns: Collection[int]) -> int:
    return sum(widths[index] + _GAP for index in columns) - _GAP if columns else 0


def _shared(widths: Mapping[int, int], columns: Sequence[int], room: int) -> dict[int, int]:
    """The room of several columns, evenly; what one does not need is for the others."""
    shares: dict[int, int] = {}
    for place, index in enumerate(sorted(columns, key=lambda index: widths[index])):
        open_columns = len(columns) - place
        shares[index] = min(widths[index], (room - (open_columns - 1) * _GAP) // open_columns)
        room -= shares[index] + _GAP
    return {index: max(share, 1) for index, share in shares.items()}
