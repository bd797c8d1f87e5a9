"""What an index of pages must know, as the list of all pages in the order of their last use."""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 128  # positions

Tokens = tuple[int, ...]


def common(a: Tokens, b: Tokens) -> int:
    """How many tokens agree from the first on."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)))  # fmt: skip


@dataclass
class Prefixes:
    """A page is its namespace and all tokens from the text's first to the page's last one."""

    budget: int  # pages
    pages: list[tuple[str, Tokens]] = field(default_factory=list)  # least recently used first

    def known(self, space: str) -> list[Tokens]:
        """The texts up to the end of each page."""
        return [tokens for name, tokens in self.pages if name == space]

    def find(self, space: str, tokens: Tokens) -> int:
        """The longest common beginning with a known text, which is used by that."""
        length = max((common(known, tokens) for known in self.known(space)), default=0)
        if length:
            # Of pages that agree as far, the next in the order of their tokens, or else the last.
            end = -(-length // PAGE)
            page = tokens[: end * PAGE]
            agree = [
                known
                for known in self.known(space)
                if common(known, page) == length and -(-len(known) // PAGE) == end
            ]
            self.use(space, min((a for a in agree if a >= page), default=max(agree)))
        return length

    def use(self, space: str, text: Tokens) -> None:
        """The page at the text's end and those before it, it before those."""
        for end in [len(text), *range((len(text) - 1) // PAGE * PAGE, 0, -PAGE)]:
            page = (space, text[:end])
            self.pages.remove(page)
            self.pages.append(page)

    def keep(self, space: str, tokens: Tokens) -> None:
        """Each page of them, but where one is known that begins as it does."""
        if not tokens or not self.budget:
            return
        for begin in range(0, len(tokens), PAGE):
            text = tokens[: begin + PAGE]
            here = [known for known in self.known(space) if begin < len(known) <= begin + PAGE]
            longer = [known for known in here if known[: len(text)] == text]
            shorter = [known for known in here if known == text[: len(known)]]
            last = min(longer, default=text)
            if not longer:
                self.pages = [p for p in self.pages if p[0] != space or p[1] not in shorter]
                self.pages.append((space, text))
        self.use(space, last)
        del self.pages[: max(len(self.pages) - self.budget, 0)]

    def drop(self, count: int) -> None:
        """The first ones."""
        del self.pages[:count]
