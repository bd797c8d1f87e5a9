"""pythia_rt beside its peers, in turn, in one run: python -m bench.compare CHECKPOINT.

A peer that is not installed, or cannot convert the checkpoint, is skipped with a line. With
--device cuda everything runs on a CUDA device.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from bench import checkpoint, kinds, limits, measure
from bench.peers import devices, registry, torch_device, torch_process
from bench.peers.isolated import Isolated, Subject, reason
from bench.peers.ours import PythiaRt
from bench.peers.protocol import Runner, Source
from bench.records import device_records, measured
from pythia_rt import _core
from pythia_rt.convert import convert

Load = Callable[[], Runner]  # can be pickled, to be called in another process


class About(NamedTuple):
    """What all records of a run have in common."""

    model: str
    parameters: int
    threads: int
    isa: str


class OnDevice(NamedTuple):
    """What all records of a run on a device have in common besides."""

    name: str
    limits: Mapping[str, Callable[[], float]]
    layer_weights: int


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder in Hugging Face layout")
    parser.add_argument("--formats", nargs="+", choices=_core.format_names(), default=["q4", "q8"])
    parser.add_argument("--kv-formats", nargs="+", choices=_core.kv_format_names(), default=["f16"])
    parser.add_argument(
        "--device", choices=devices.NAMES, default=devices.CPU, help="where everything runs"
    )
    there = "; ".join(f"{name}: {' '.join(registry.peers(name))}" for name in devices.NAMES)
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="PEER[:FORMAT]",
        help=f"default: all, each in all its formats ({there})",
    )
    measure.add_work_options(parser, kinds.KINDS)
    measure.add_texts_option(parser)
    measure.add_options(parser, repetitions=5)
    options = parser.parse_args()
    device = _device(parser, options.device)
    peers = _peers(parser, options.peers, options.device)
    work = kinds.Work.of(options)
    config = json.loads((options.checkpoint / "config.json").read_text())
    _check_context(parser, config, work, options.kinds)
    facts = measured.machine()
    print(measured.headline(facts))
    if device is not None:
        facts["device"] = asdict(device)
        print(device.headline())
    measure.append_line(options.json, facts)

    about = About(
        options.checkpoint.resolve().name,
        sum(tensor.size for tensor in checkpoint.tensors(config)),
        options.threads or _core.default_threads(),
        _core.selected_isa() if device is None else device.isa,
    )
    place = f"{about.threads} threads" if device is None else device.name
    print(f"{about.model}, {place}; x: how many times as fast the first is")
    on_device = None if device is None else _on_device(device, config)
    with tempfile.TemporaryDirectory() as folder:
        source = Source(options.checkpoint, Path(folder), about.threads, work.room, options.device)
        loads: dict[str, Load] = {
            _name(form, kv_format): functools.partial(_ours, source, form, kv_format)
            for kv_format in options.kv_formats
            for form in options.formats
        }
        for peer, form in peers:
            loads[f"{peer} {form}"] = functools.partial(registry.load, peer, form, source)
        subjects = _start(loads, work)
        for kind in options.kinds:
            found = _measure(kind, subjects, work, options, about, on_device)
            _report(kind, found, options.json)
        for subject in subjects.values():
            subject.close()


def _device(parser: argparse.ArgumentParser, name: str) -> devices.Device | None:
    """Refuse a device that cannot be used, before anything else."""
    try:
        return devices.find(name)
    except RuntimeError as error:
        parser.error(f"--device {name} cannot be used: {error}")


def _peers(
    parser: argparse.ArgumentParser, names: list[str] | None, device: str
) -> list[tuple[str, str]]:
    """(peer, format) of all that are asked for: which there are depends on the device."""
    try:
        wanted = registry.peers(device) if names is None else names
        return [pair for name in wanted for pair in registry.chosen(name, device)]
    except ValueError as error:
        parser.error(f"argument --peers: {error}")


def _on_device(device: devices.Device, config: checkpoint.Config) -> OnDevice:
    found: Mapping[str, Callable[[], float]] = {}
    try:
        missing = torch_process.call(torch_device.unavailable)
        if not missing:
            found = {
                name: functools.partial(torch_process.call, torch_device.measure, name)
                for name in torch_process.call(torch_device.limit_names)
            }
    except RuntimeError as error:
        missing = reason(error)
    if missing:
        print(f"the device's limits are not measured: {missing}")
    return OnDevice(device.name, found, checkpoint.layer_weights(config))


def _check_context(
    parser: argparse.ArgumentParser,
    config: checkpoint.Config,
    work: kinds.Work,
    chosen: list[str],
) -> None:
    """Refuse work that the model has no room for, before anything is converted."""
    room = int(config["max_position_embeddings"])
    for kind, needed in work.lengths().items():
        if kind in chosen and needed > room:
            parser.error(f"{kind} needs {needed} tokens, the model has a context of {room}")


def _name(form: str, kv_format: str) -> str:
    return f"pythia_rt {form}" + ("" if kv_format == "f16" else f", {kv_format} cache")


def _ours(source: Source, form: str, kv_format: str) -> Runner:
    path = source.folder / f"pythia_rt-{form}"
    if not path.exists():
        convert(source.checkpoint, path, format=form)
    return PythiaRt(path, source.threads, source.room, kv_format, source.device)


def _start(loads: Mapping[str, Load], work: kinds.Work) -> dict[str, Isolated]:
    """One process after the other, so that no two convert at a time."""
    subjects = {}
    for name, load in loads.items():
        try:
            subjects[name] = Isolated(load, work)
        except RuntimeError as error:
            if name.startswith("pythia_rt "):
                raise
            print(f"{name} is skipped: {error}", flush=True)
    return subjects


def _measure(
    kind: str,
    subjects: Mapping[str, Subject],
    work: kinds.Work,
    options: argparse.Namespace,
    about: About,
    on_device: OnDevice | None = None,
) -> dict[str, measured.Record | None]:
    """A record of each subject; None for one that cannot do this kind of work."""
    vocab_size = min(subject.vocab_size for subject in subjects.values())
    measurements = {
        name: measurement
        for name, subject in subjects.items()
        if (measurement := subject.measurement(kind, vocab_size)) is not None
    }
    repetitions = options.repetitions
    if on_device is None:
        rates, bandwidth = limits.alternate(
            measurements, repetitions, about.threads, _failure(kind)
        )
    else:
        rates, medians = limits.alternate_with(
            on_device.limits, measurements, repetitions, _failure(kind, on_device.limits)
        )
        device_limits = device_records.DeviceLimits.of(medians)
        bandwidth = device_limits.read
        print(f"  {kind:8} {'limits':22} {device_limits.line()}")
    found: dict[str, measured.Record | None] = dict.fromkeys(subjects)
    for name, rate in rates.items():
        record = measured.of_rates(
            rate,
            benchmark="compare",
            runner=name,
            kind=kind,
            reads=subjects[name].reads,
            bandwidth=bandwidth,
            **work.facts(kind),
            **about._asdict(),
        )
        if on_device is not None:
            record = device_records.of_record(
                record, on_device.name, device_limits, on_device.layer_weights
            )
        found[name] = record
    return found


def _failure(kind: str, limited: Collection[str] = ()) -> Callable[[str, Exception], None]:
    def tell(name: str, error: Exception) -> None:
        if name.startswith("pythia_rt "):
            raise error
        what = f"the limit {name} is unknown" if name in limited else f"{name} cannot do {kind}"
        print(f"{what}: {reason(error)}", flush=True)

    return tell


def _report(kind: str, found: Mapping[str, measured.Record | None], lines: Path | None) -> None:
    """Print a kind's table, with how many times as fast as each the first runner is."""
    first = next(iter(found.values()))
    for name, record in found.items():
        if record is None:
            print(f"  {kind:8} {name:22} {'-':>9}")
            continue
        ratio = first.median / record.median if first is not None else 1.0
        versus = "" if record is first else f"   x {ratio:.2f}"
        print(f"  {kind:8} {name:22} {record.line()}{versus}", flush=True)
        measure.append_line(lines, record.to_dict())


if __name__ == "__main__":
    main()
