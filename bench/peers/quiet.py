"""transformers without its bars of progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """transformers shows no bars of progress in this block.

    What it is told holds for the process, and for the hub's library too, which others use: both are
    told to do as before at the end.
    """
    import huggingface_hub.utils
    import transformers

    logging: Any = transformers.utils.logging
    hub: Any = huggingface_hub.utils
    wanted, hidden = logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if wanted:
            logging.enable_progress_bar()  # and the hub's
        if hidden:
            hub.disable_progress_bars()
        elif not wanted:
            hub.enable_progress_bars()
