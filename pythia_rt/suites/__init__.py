"""Suites of checkpoints: one training at many steps, on the hub or in a folder."""

from __future__ import annotations

from pythia_rt.suites.checkpoints import Checkpoint, checkpoints
from pythia_rt.suites.names import known_steps, model_names

__all__ = ["Checkpoint", "checkpoints", "known_steps", "model_names"]
