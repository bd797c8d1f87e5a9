"""Stop strings: cut a text that arrives in pieces, wherever the pieces are split."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text on up to the first stop string, and holds back what may be the start of one.

    The stop string that is complete first, reading character by character, wins; of two that end
    on the same character, the longer. So the result does not depend on how the text was cut into
    pieces. Knuth, Morris and Pratt's automaton per stop string: constant work per character.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _fallbacks(stop)) for stop in stops]
        self._states = [0] * len(self._stops)  # how many characters of each stop stand at the end
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Take the next piece; return what can be passed on. After a match, always empty."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        ready = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = self._advance(character)
            if complete:
                self.matched, self._held = complete, ""
                return ready[: end - len(complete)]
        keep = len(ready) - max(self._states)
        self._held = ready[keep:]
        return ready[:keep]

    def flush(self) -> str:
        """The text has ended: return what was held back in vain."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str:
        complete = ""
        for i, (stop, fallbacks) in enumerate(self._stops):
            state = self._states[i]
            while state and stop[state] != character:
                state = fallbacks[state - 1]
            state += stop[state] == character
            self._states[i] = state
            if state == len(stop) > len(complete):
                complete = stop
        return complete


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper border."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        length += stop[i] == stop[length]
        borders[i] = length
    return borders
