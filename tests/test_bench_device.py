"""bench.compare on a device that is not there: devices and runtimes are stand-ins here."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT

from bench import compare, kinds, measure
from bench import report as bench_report
from bench.checkpoint import layer_weights
from bench.peers import devices, registry, torch_device, torch_process
from bench.peers.isolated import Local
from bench.peers.ours import PythiaRt
from bench.peers.protocol import Reads, Runner, Source, Tokens
from bench.records import device_records, measured, plots, recorded
from pythia_rt import _core
from pythia_rt.convert import convert

DEMO = ROOT / "pythia_rt" / "demo"
WORK = kinds.Work(prefill=12, decode=3, context=20, sequences=2, texts=2, text_length=9)
FAKE = devices.Device("Fake 9000", "sm_90", 80.0, "580.65.06", "13.0", "a sum")


@pytest.fixture
def torch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks torch, or its stand-in, in this process."""
    monkeypatch.setattr(torch_process, "call", lambda function, *arguments: function(*arguments))
    torch_device._limits.cache_clear()


# The device and the command line.


@pytest.mark.skipif(not _core.cuda_unavailable(), reason="there is a CUDA device")
def test_without_a_device_there_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.compare", str(DEMO), "--device", "cuda"]
    command += ["--json", str(tmp_path / "lines")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"compare.py: error: --device cuda cannot be used: {_core.cuda_unavailable()}"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "lines").exists()


def test_the_processor_is_no_device() -> None:
    assert devices.find("cpu") is None


@pytest.mark.usefixtures("torch_here")
def test_a_device_is_what_pythia_rt_and_torch_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "cuda_unavailable", lambda: "")
    monkeypatch.setattr(_core, "cuda_device_name", lambda: "Fake 9000")
    monkeypatch.setattr(devices, "driver", lambda: "580.65.06")
    monkeypatch.setattr(torch_device, "unavailable", lambda: "torch is not installed")
    assert devices.find("cuda") == devices.Device(
        "Fake 9000", "cuda", None, "580.65.06", None, None
    )
    monkeypatch.setattr(torch_device, "unavailable", lambda: "")
    monkeypatch.setattr(torch_device, "facts", lambda: torch_device.Facts("sm_90", 80.0, "13.0"))
    found = devices.find("cuda")
    assert found == dataclasses.replace(FAKE, bandwidth_by=torch_device.BANDWIDTH_BY)
    assert found.headline() == "Fake 9000, sm_90, 80.0 GB, driver 580.65.06, torch's CUDA 13.0"


def test_torch_may_end_its_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch_process.call(os.getpid)
    assert before not in (os.getpid(), os.getppid())
    assert torch_process.call(os.getpid) == before
    with pytest.raises(ValueError, match="invalid literal"):
        torch_process.call(int, "four")
    with pytest.raises(RuntimeError, match="torch ended its process"):
        torch_process.call(os.abort)
    assert torch_process.call(os.getpid) != before
    monkeypatch.setattr(torch_device, "unavailable", os.abort)
    monkeypatch.setattr(_core, "cuda_unavailable", lambda: "")
    monkeypatch.setattr(_core, "cuda_device_name", lambda: "Fake 9000")
    found = devices.find("cuda")
    assert found is not None
    assert (found.isa, found.torch_cuda) == ("cuda", None)
    config = json.loads((DEMO / "config.json").read_text())
    assert not compare._on_device(found, config).limits
    assert "limits are not measured: torch ended its process\n" in capsys.readouterr().out


def test_the_driver_is_read_from_the_system(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert devices.driver(file) is None
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    assert devices.driver(file) == "580.65.06"


# Limits.


class FakeTorch:
    """torch with a clock of its own: a sum takes 1 ms, an int8 product 2 ms, one of fp16 4 ms."""

    float32, float16, int8 = "float32", "float16", "int8"

    def __init__(self, *, has_int8: bool):
        self.now, self.has_int8 = 0.0, has_int8
        self.made: list[tuple[Any, ...]] = []
        clock = self

        class Event:
            def __init__(self, enable_timing: bool):
                assert enable_timing

            def record(self) -> None:
                self.at = clock.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, other: Any) -> float:
                return float(other.at - self.at)

        self.cuda = SimpleNamespace(Event=Event, synchronize=lambda: None)

    def rand(self, count: int, *, dtype: str, device: str) -> Any:
        return self._tensor((count,), dtype, device)

    def randn(self, *shape: int, dtype: str, device: str) -> Any:
        return self._tensor(shape, dtype, device)

    def randint(self, low: int, high: int, shape: Any, *, dtype: str, device: str) -> Any:
        assert (low, high) == (-128, 128)
        return self._tensor(shape, dtype, device)

    def matmul(self, left: Any, right: Any) -> None:
        self._work(4.0)

    def _int_mm(self, left: Any, right: Any) -> None:
        if not self.has_int8:
            raise RuntimeError("not implemented on this device")
        assert right.columns
        self._work(2.0)

    def _tensor(self, shape: Any, dtype: str, device: str) -> Any:
        assert device == "cuda:0"
        self.made.append((*shape, dtype))
        return SimpleNamespace(
            sum=lambda: self._work(1.0), t=lambda: SimpleNamespace(columns=True), columns=False
        )

    def _work(self, milliseconds: float) -> None:
        self.now += milliseconds


def test_limits_are_what_the_device_does_in_its_time() -> None:
    fake = FakeTorch(has_int8=True)
    found = torch_device.limits(fake)
    assert list(found) == ["memory", "int8"]
    before = list(fake.made)
    assert found["memory"]() == pytest.approx((2 << 30) / 1e-3)
    assert found["int8"]() == pytest.approx(2 * 8192**3 / 2e-3)
    found["memory"]()
    assert fake.made[len(before) :] == [
        ((2 << 30) // 4, "float32"),
        *[(8192, 8192, "int8")] * 2,
    ]


def test_without_int8_the_limit_is_that_of_fp16_and_says_so() -> None:
    found = torch_device.limits(FakeTorch(has_int8=False))
    assert list(found) == ["memory", "fp16"]
    assert found["fp16"]() == pytest.approx(2 * 8192**3 / 4e-3)
    limits = device_records.DeviceLimits.of({"memory": 3e12, "fp16": 8e14})
    assert limits.line() == "memory 3000.0 GB/s, fp16 800.0 Top/s"


def test_the_repetitions_of_a_limit_take_long_enough() -> None:
    fake = FakeTorch(has_int8=True)
    read = torch_device.limits(fake)["memory"]
    fake.now = 0.0
    read()
    assert fake.now >= 1e3 * torch_device.SECONDS


class Stand:
    """A runner without work, as fast as the clock allows."""

    vocab_size = 10
    reads = Reads(10**9, None)

    def start(self, *prompts: Tokens) -> None:
        pass

    def write_seconds(self, prompts: list[Tokens], count: int) -> float:
        return 0.01 * count


def about() -> compare.About:
    return compare.About("model", 5, 1, "sm_90")


def test_parts_of_the_limits_stand_in_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    limits = {"memory": lambda: 4e11, "int8": lambda: 1e14}
    place = compare.OnDevice("Fake 9000", limits, 10**9)
    options = argparse.Namespace(repetitions=1)
    subjects = {"pythia_rt q4": Local(Stand(), WORK)}
    record = compare._measure("decode", subjects, WORK, options, about(), place)["pythia_rt q4"]
    assert isinstance(record, device_records.DeviceRecord)
    assert "decode   limits                 memory 400.0 GB/s, int8 100.0 Top/s" in (
        capsys.readouterr().out
    )
    assert record.median == pytest.approx(100)
    assert (record.device, record.isa, record.read_limit) == ("Fake 9000", "sm_90", 400.0)
    assert record.fraction == pytest.approx(100 * 1e9 / 4e11)
    assert (record.multiply, record.multiply_limit) == ("int8", 1e5)
    assert record.gigaoperations_per_s is record.multiply_fraction is None
    assert " ".join(record.line().split()) == (
        "100.0 ± 0% tokens/s, 100.0 GB/s read, 25% of the memory's"
    )


def prefilled(limits: device_records.DeviceLimits) -> device_records.DeviceRecord:
    record = measured.of_rates(
        measure.Rates([20_000.0]), kind="prefill", tokens=512, context=0, bandwidth=limits.read,
        reads=Reads(10**9, None), benchmark="compare", runner="pythia_rt q4", sequences=1,
        **about()._asdict(),
    )  # fmt: skip
    return device_records.of_record(record, "Fake 9000", limits, 10**9)


def test_prefill_has_its_part_of_the_products() -> None:
    record = prefilled(device_records.DeviceLimits(400.0, "int8", 1e5))
    assert (record.operations_per_token, record.gigaoperations_per_s) == (2 * 10**9, 40_000.0)
    assert (record.multiply_fraction, record.fraction) == (0.4, None)
    assert record.line().endswith("20000.0 ±   0% tokens/s, 40.0 Top/s, 40% of int8's")
    unknown = prefilled(device_records.DeviceLimits())
    assert (unknown.gigaoperations_per_s, unknown.multiply_fraction) == (40_000.0, None)
    assert device_records.DeviceLimits().line() == "memory unknown, products unknown"


def test_products_are_with_the_layers_matrices() -> None:
    config = json.loads((DEMO / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    one = 4 * width * width + 2 * width * inner
    assert layer_weights(config) == config["num_hidden_layers"] * one


def test_a_limit_that_cannot_be_measured_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def no_room() -> float:
        raise RuntimeError("out of memory\nmore lines")

    place = compare.OnDevice("Fake 9000", {"memory": no_room, "int8": lambda: 1e14}, 10**9)
    options = argparse.Namespace(repetitions=1)
    subjects = {"pythia_rt q4": Local(Stand(), WORK)}
    record = compare._measure("decode", subjects, WORK, options, about(), place)["pythia_rt q4"]
    assert "the limit memory is unknown: out of memory\n" in capsys.readouterr().out
    assert record is not None
    assert (record.gigabytes_per_s, record.fraction) == (pytest.approx(100.0), None)


# All of it, and its tables.


def on_the_processor(source: Source, form: str, kv_format: str) -> Runner:
    path = convert(source.checkpoint, source.folder / form, format=form)
    return PythiaRt(path, source.threads, source.room, kv_format)


@pytest.fixture
def lines(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    torch_here: None,
) -> tuple[Path, str]:
    """What a run on the fake device writes and prints."""
    monkeypatch.setattr(devices, "find", lambda name: FAKE if name == "cuda" else None)
    monkeypatch.setattr(compare, "_ours", on_the_processor)
    monkeypatch.setattr(torch_device, "unavailable", lambda: "")
    monkeypatch.setattr(torch_device, "require", lambda: FakeTorch(has_int8=True))
    file = tmp_path / "lines"
    arguments = [
        "compare", DEMO, "--device", "cuda", "--formats", "q4", "--threads", 1, "--prefill", 12,
        "--decode", 3, "--kinds", "prefill", "decode", "--repetitions", 1, "--json", file,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    compare.main()
    return file, capsys.readouterr().out


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_run_says_where_and_skips_who_cannot(lines: tuple[Path, str]) -> None:
    file, printed = lines
    assert f"\n{FAKE.headline()}\ndemo, Fake 9000; x: " in printed
    for peer, kind in registry.CUDA_PEERS.items():
        for form in kind.formats:
            reasons = [line for line in printed.splitlines() if line.startswith(f"{peer} {form} ")]
            assert len(reasons) == 1
            assert " is skipped: " in reasons[0]
    machine, *measured = map(json.loads, file.read_text().splitlines())
    assert machine["device"]["driver"] == "580.65.06"
    assert [(line["kind"], line["device"]) for line in measured] == [
        ("prefill", "Fake 9000"),
        ("decode", "Fake 9000"),
    ]
    assert measured[0]["multiply_fraction"] > 0
    assert measured[1]["fraction"] > 0


def test_tables_show_a_device_on_its_own(tmp_path: Path) -> None:
    limits = device_records.DeviceLimits(400.0, "int8", 1e5)
    prefill = prefilled(limits).to_dict()
    decode = {
        **prefill, "kind": "decode", "median": 100.0, "values": [100.0], "gigabytes_per_s": 100.0,
        "fraction": 0.25, "gigaoperations_per_s": None, "multiply_fraction": None,
    }  # fmt: skip
    other = {**decode, "device": None, "median": 3.0, "values": [3.0]}
    file = tmp_path / "lines"
    file.write_text("".join(json.dumps(line) + "\n" for line in (other, prefill, decode)))
    found = recorded.read(file)
    assert len(found) == 3
    text = list(bench_report.markdown(found))
    first, second = text.index("## Models"), text.index("## Models on Fake 9000")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text[second:]]
    assert cells[2][-6:] == [
        "read GB/s", "read limit", "of read", "Top/s", "multiply limit", "of multiply",
    ]  # fmt: skip
    work = ["model", "0 M", "pythia_rt q4"]
    assert [*work, "prefill", "512", "0", "1", "2e+04", "0%", "tokens/s", "", "400.0", "",
            "40.0", "int8 100.0", "40%"] in cells  # fmt: skip
    assert [*work, "decode", "512", "0", "1", "100", "0%", "tokens/s", "100.0", "400.0", "25%",
            "", "int8 100.0", ""] in cells  # fmt: skip
    assert sum("pythia_rt q4" in line for line in text[first:second]) == 1


def test_plots_tell_devices_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    record = prefilled(device_records.DeviceLimits()).to_dict()
    other = {**record, "device": None, "isa": "avx2"}
    paths = plots.write([record, {**record, "device": "Fake/2"}, other], tmp_path)
    threads = record["threads"]
    names = ["sm_90-Fake-9000", "sm_90-Fake-2", "avx2"]
    assert [path.name for path in paths] == [f"speed-{name}-{threads}.png" for name in names]
