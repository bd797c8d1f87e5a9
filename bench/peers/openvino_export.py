"""Exports a checkpoint by optimum-intel: python openvino_export.py CHECKPOINT FOLDER BITS.

A script on its own, so that it runs under a Python whose transformers is as old as it needs.
"""

from __future__ import annotations

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def main() -> None:
    """Take the arguments as they come: openvino_peer gives them."""
    checkpoint, folder, bits = sys.argv[1:]
    # What optimum-cli's --weight-format int8 and int4 choose.
    quantization = OVWeightQuantizationConfig(bits=int(bits), sym=False)
    model = OVModelForCausalLM.from_pretrained(
        checkpoint, export=True, compile=False, quantization_config=quantization
    )
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
