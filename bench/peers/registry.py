"""The peers there are, found and loaded by name; one that cannot be loaded is skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from bench.peers import ctranslate_peer, cuda_peers, llama, llama_peer, openvino_peer, torch_peer
from bench.peers.protocol import Runner, Source


class Kind(NamedTuple):
    """A peer: what loads it, its formats, the modules and the distributions it needs."""

    load: Callable[[Source, str], Runner]
    formats: tuple[str, ...]
    modules: tuple[str, ...]
    distributions: tuple[str, ...]


PEERS: dict[str, Kind] = {
    "transformers": Kind(
        torch_peer.Transformers,
        torch_peer.FORMATS,
        torch_peer.PACKAGES,
        ("transformers", "torch"),
    ),
    "llama.cpp": Kind(
        llama_peer.LlamaCpp,
        llama_peer.FORMATS,
        llama_peer.PACKAGES,
        ("llama-cpp-python",),
    ),
    "ctranslate2": Kind(
        ctranslate_peer.CTranslate2,
        ctranslate_peer.FORMATS,
        ctranslate_peer.PACKAGES,
        ("ctranslate2",),
    ),
    "openvino": Kind(
        openvino_peer.OpenVino,
        openvino_peer.FORMATS,
        openvino_peer.PACKAGES,
        ("openvino-genai", "openvino", "optimum-intel"),
    ),
}

CUDA_PEERS: dict[str, Kind] = {
    "transformers": Kind(
        cuda_peers.Transformers,
        cuda_peers.FORMATS,
        cuda_peers.PACKAGES,
        ("transformers", "torch", "accelerate"),
    ),
    "llama.cpp": PEERS["llama.cpp"],
    "bitsandbytes": Kind(
        cuda_peers.BitsAndBytes,
        cuda_peers.BITS_AND_BYTES_FORMATS,
        cuda_peers.BITS_AND_BYTES_PACKAGES,
        ("bitsandbytes",),
    ),
}


def peers(device: str) -> Mapping[str, Kind]:
    """Those that run on a device of bench.peers.devices.NAMES."""
    return CUDA_PEERS if device == "cuda" else PEERS


def chosen(name: str, device: str = "cpu") -> list[tuple[str, str]]:
    """(peer, format) of "peer:format", or of all formats of "peer". Raises ValueError."""
    there = peers(device)
    peer, _, form = name.partition(":")
    if peer not in there or (form and form not in there[peer].formats):
        every = ", ".join(f"{p}:{f}" for p, kind in there.items() for f in kind.formats)
        raise ValueError(f"there is no peer {name!r}; there are {every}, or all of one: {peer}")
    return [(peer, f) for f in there[peer].formats if form in ("", f)]


def load(peer: str, form: str, source: Source) -> Runner:
    """Convert and load. Raises ImportError that says what is not installed, and what peers do."""
    kind = peers(source.device)[peer]
    if missing := llama.missing(*kind.modules):
        raise ImportError(f"not installed: {', '.join(missing)}")
    return kind.load(source, form)


def versions() -> dict[str, str]:
    """Of the peers' distributions that are installed."""
    return dict(_versions())


def _versions() -> Iterator[tuple[str, str]]:
    for kind in (*PEERS.values(), *CUDA_PEERS.values()):
        for name in kind.distributions:
            try:
                yield name, version(name)
            except PackageNotFoundError:
                continue
