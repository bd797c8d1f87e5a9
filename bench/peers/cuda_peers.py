"""transformers on a CUDA device: in 16-bit floats, or in fewer bits by bitsandbytes.

Every pass is waited for, as transformers' own loop of writing does to see whether to go on.
"""

from __future__ import annotations

from typing import Any

from bench.peers import torch_device, torch_peer

PACKAGES = ("torch", "transformers", "accelerate")
FORMATS = ("float16-eager", "float16-sdpa")
BITS_AND_BYTES_PACKAGES = (*PACKAGES, "bitsandbytes")
BITS_AND_BYTES_FORMATS = ("int8", "nf4")


class Transformers(torch_peer.Transformers):
    """The format names the attention too: plain products, or torch's fused one."""

    def options(self, form: str) -> dict[str, Any]:
        """See torch_peer.Transformers."""
        return _on_device(attention=form.removeprefix("float16-"))


class BitsAndBytes(torch_peer.Transformers):
    """Layers' matrices in 8 bits, or 4 (nf4, its format for weights); the rest is float16."""

    def options(self, form: str) -> dict[str, Any]:
        """See torch_peer.Transformers."""
        found = _on_device(attention="sdpa")
        import transformers

        maker: Any = transformers.BitsAndBytesConfig
        if form == "int8":
            quantization = maker(load_in_8bit=True)
        else:
            quantization = maker(
                load_in_4bit=True,
                bnb_4bit_quant_type=form,
                bnb_4bit_compute_dtype=found["dtype"],
            )
        return {**found, "quantization_config": quantization}


def _on_device(attention: str) -> dict[str, Any]:
    torch = torch_device.require()
    return {
        "dtype": torch.float16,
        "attn_implementation": attention,
        "device_map": {"": torch_device.DEVICE},
    }
