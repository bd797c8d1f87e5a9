"""Tables of text: in columns for terminals, or Markdown, which also reads well there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def count(number: int, noun: str) -> str:
    """Return "1 thread" or "2 threads"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def lines(cells: Sequence[Sequence[str]], *, markdown: bool = True) -> Iterator[str]:
    """Lines of a table; the first row are headings, the first column is aligned to the left."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for number, row in enumerate(cells):
        first, *rest = zip(row, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        if not markdown:
            yield "  ".join(padded).rstrip()
            continue
        yield f"| {' | '.join(padded)} |"
        if number == 0:
            rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
            yield f"|{'|'.join(rules)}|"
