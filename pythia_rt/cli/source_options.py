"""What commands say of the options that name a checkpoint, its format and where it is kept."""

from __future__ import annotations

# Listed here and not asked for: a command's help does not load the core.
FORMATS = "f32, f16, bf16, q8, q6, q5, q4"
REVISION = "Branch, tag or commit of a hub model.  [default: main]"
STEP = "Step of a training: the revision or folder step{N}."
DOWNLOADS = "Where to keep downloads.  [default: the hub's cache]"
DOWNLOADS_AND_FLAT_FILES = (
    "Where to keep downloads and flat files.  [default: the hub's cache and ~/.cache/pythia_rt]"
)
