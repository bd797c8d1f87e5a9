"""What csrc/sampling must do, slowly: one Python float at a time, every step a full sort.

Python floats are IEEE doubles, and the order of every sum is part of what the sampler promises, so
its tokens must equal these exactly: same generator, same exponentials, same ties.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10


class MersenneTwister64:
    """The 64-bit Mersenne twister (Matsumoto and Nishimura 2004), C++'s std::mt19937_64."""

    def __init__(self, seed: int = 5489) -> None:
        """Fill the state from `seed`, 0 to 2**64 - 1."""
        self.state = [seed]
        for i in range(1, 312):
            x = self.state[-1] ^ (self.state[-1] >> 62)
            self.state.append((6364136223846793005 * x + i) % 2**64)
        self.index = 312

    def __call__(self) -> int:
        """The next number, 0 to 2**64 - 1."""
        s = self.state
        if self.index == 312:
            for i in range(312):
                x = s[i] >> 31 << 31 | s[(i + 1) % 312] % 2**31
                s[i] = s[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.index = 0
        x = s[self.index]
        self.index += 1
        x ^= (x >> 29) & 0x5555555555555555
        x ^= (x << 17) & 0x71D67FFFEDA60000
        x ^= (x << 37) & 0xFFF7EEE000000000
        return x ^ (x >> 43)


def portable_exp(x: float) -> float:
    """The exponential by its Taylor series, after reduction by ln 2 (portable_math.h)."""
    if x < -708:
        return 0.0
    k = round(x * 1.44269504088896338700)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    y = 0.0
    for n in range(13, -1, -1):
        y = y * r + 1.0 / math.factorial(n)
    return math.ldexp(y, k)


def portable_log(x: float) -> float:
    """The natural logarithm by eleven terms of artanh's series (portable_math.h)."""
    m, e = math.frexp(x)
    m, e = 2 * m, e - 1
    if m > 1.41421356237309504880:
        m, e = m / 2, e + 1
    s = (m - 1) / (m + 1)
    y = 0.0
    for n in range(21, 0, -2):
        y = y * (s * s) + 1.0 / n
    return e * LN2_HIGH + (2 * s * y + e * LN2_LOW)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keyword arguments of `_core.Sampler`; every step is off by default."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0


Candidates = list[tuple[int, float]]  # (token id, logit), in the order in which they are summed


def weights_of(candidates: Candidates) -> list[float]:
    """The softmax of the candidates before its division."""
    largest = max(logit for _, logit in candidates)
    return [portable_exp(logit - largest) for _, logit in candidates]


def added_up(values: Sequence[float]) -> float:
    """The sum from left to right (the built-in sum compensates from Python 3.12 on)."""
    total = 0.0
    for value in values:
        total += value
    return total


def by_likelihood(candidates: Candidates) -> Candidates:
    """Likeliest first; of equals, the lowest id first."""
    return sorted(candidates, key=lambda c: (-c[1], c[0]))


def keep_mass(candidates: Candidates, ranked: Candidates, mass: float) -> Candidates:
    """The shortest prefix of `ranked` with at least `mass` of the candidates' probability."""
    target = mass * added_up(weights_of(candidates))
    reached = 0.0
    for n, weight in enumerate(weights_of(ranked), start=1):
        reached += weight
        if reached >= target:
            return ranked[:n]
    return ranked


def typical(candidates: Candidates, mass: float) -> Candidates:
    """Locally typical sampling, Meister et al. 2022 (arXiv:2202.00666)."""
    weights = weights_of(candidates)
    products = [w * logit for w, (_, logit) in zip(weights, candidates, strict=True) if w > 0]
    expected = added_up(products) / added_up(weights)
    ranked = sorted(candidates, key=lambda c: (abs(c[1] - expected), c[0]))
    return keep_mass(candidates, ranked, mass)


class Sampler:
    """The sampler: `n_tokens` ids, of which each call of `sample` draws one."""

    def __init__(self, n_tokens: int, options: Options) -> None:
        """Start with an empty history and the generator seeded by `options.seed`."""
        self.n_tokens = n_tokens
        self.options = options
        self.prompt: list[int] = []
        self.generated: list[int] = []
        self.generator = MersenneTwister64(options.seed)
        self.mask: Sequence[int] | None = None

    def allow(self, mask: Sequence[int]) -> None:
        """Let the next call of `sample` draw only ids whose bit is set in words of 32."""
        self.mask = mask

    def accept_prompt(self, tokens: Sequence[int]) -> None:
        """Add `tokens` to what the repetition penalty has seen."""
        self.prompt += tokens

    def candidates(self, logits: Sequence[float]) -> Candidates:
        """What remains of the `n_tokens` first `logits` after all steps, with the final logits."""
        o = self.options
        scores = [float(logit) for logit in logits[: self.n_tokens]]
        for token in set(self.prompt + self.generated):
            positive = scores[token] > 0
            scores[token] *= 1 if positive else o.repetition_penalty
            scores[token] /= o.repetition_penalty if positive else 1
        for token in set(self.generated):
            scores[token] -= o.presence_penalty
            scores[token] -= o.frequency_penalty * self.generated.count(token)
        for token, bias in o.logit_bias.items():
            scores[token] += bias
        if self.mask is not None:
            bits = "".join(f"{word:032b}"[::-1] for word in self.mask)
            scores = [s if bit == "1" else -math.inf for s, bit in zip(scores, bits, strict=False)]
        left: Candidates = list(enumerate(scores))
        if o.temperature == 0:
            left = by_likelihood(left)[:1]
        elif o.temperature != 1:
            largest = max(scores)
            left = [(token, (score - largest) / o.temperature) for token, score in left]
        if 0 < o.top_k < len(left):
            left = by_likelihood(left)[: o.top_k]
        if o.top_p < 1:
            left = keep_mass(left, by_likelihood(left), o.top_p)
        if o.min_p > 0:
            lowest = max(logit for _, logit in left) + portable_log(o.min_p)
            left = [c for c in left if c[1] >= lowest]
        if o.typical_p < 1:
            left = typical(left, o.typical_p)
        return left

    def probabilities(self, logits: Sequence[float]) -> dict[int, float]:
        """The probability of each token that may be drawn."""
        left = self.candidates(logits)
        weights = weights_of(left)
        return {c[0]: w / added_up(weights) for c, w in zip(left, weights, strict=True)}

    def sample(self, logits: Sequence[float]) -> int:
        """Draw a token and record it."""
        left = self.candidates(logits)
        self.mask = None
        weights = weights_of(left)
        target = (self.generator() >> 11) / 2**53 * added_up(weights)
        reached = 0.0
        for (token, _), weight in zip(left, weights, strict=True):
            reached += weight
            if reached > target:
                self.generated.append(token)
                return token
        raise AssertionError("the weights no longer add up to their sum")
