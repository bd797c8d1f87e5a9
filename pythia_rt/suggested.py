"""What the authors of a model suggest to sample with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pythia_rt.sampling import Sampling, merged


def suggested_sampling(values: Mapping[str, float]) -> Sampling:
    """`Sampling` with the values of a generation_config.json (`FlatFile.text["sampling"]`).

    What they do not give keeps our default. A value outside the range of its option is left out.
    """
    sampling = Sampling()
    for name, value in values.items():
        options: Any = {name: value}
        try:
            sampling = merged(sampling, **options)
        except ValueError:
            continue
    return sampling
