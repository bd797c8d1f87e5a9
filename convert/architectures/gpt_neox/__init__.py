"""GPT-NeoX: Pythia, GPT-NeoX-20B, Dolly v2, RedPajama-INCITE and StableLM-alpha, say."""

from .plan import make_plan

__all__ = ["make_plan"]
