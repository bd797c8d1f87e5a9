"""One operation on a device, against the specification: python -m bench.device_check DEVICE.

./scripts/on-device runs it first, by itself and with torch in the same process (--torch), so that a
crash is seen in seconds, and whether it needs torch.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bench import testing_extension
from bench.peers import devices
from pythia_rt import _core

ROWS, COLUMNS, OUTPUTS = 3, 160, 48


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=devices.NAMES)
    parser.add_argument("--torch", action="store_true", help="import torch first, and use it")
    options = parser.parse_args()
    if options.torch:
        import torch

        there = torch.zeros(4, device=options.device).sum().item()
        print(f"torch {torch.__version__} says {there}", flush=True)
    print(f"{_core.default_threads()} threads, {_core.selected_isa()}", flush=True)
    testing: Any = testing_extension.load()
    backend = testing.TestBackend(
        options.device if options.device == devices.CUDA else testing.isa_names()[0]
    )
    print(f"a backend on {backend.isa}", flush=True)
    if not (outputs(testing, backend) == outputs(testing, testing.TestBackend("scalar"))).all():
        parser.exit(1, "a product differs from the specification's\n")
    print("a product has the specification's bits")


def outputs(testing: Any, backend: Any) -> Any:
    """The bits of a q4 product with a bias."""
    random = np.random.default_rng(1)
    weights, values, bias = (
        random.standard_normal(shape).astype(np.float32)
        for shape in ((OUTPUTS, COLUMNS), (ROWS, COLUMNS), (OUTPUTS,))
    )
    parts = testing.pack("scalar", "q4", weights)
    case = testing.ProductCase("q4", parts, OUTPUTS, COLUMNS, values, "store", bias, False)
    [found] = backend.linear([case], None)
    return found.view(np.uint32)


if __name__ == "__main__":
    main()
