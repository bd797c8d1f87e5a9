"""From a Hugging Face checkpoint to a flat file, and back from the flat file into memory."""

from .checkpoint import Checkpoint
from .conversion import convert
from .errors import CheckpointError, FlatFileError
from .flatfile import FlatFile
from .hub import resolve

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "FlatFile",
    "FlatFileError",
    "convert",
    "resolve",
]
