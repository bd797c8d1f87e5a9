"""Activations of many texts, for what is trained on them: written to a folder, or one by one.

`harvest` fills a folder with arrays, which it goes on with after an interruption;
`iter_activations` yields batches and stores nothing; `write_arrow` makes of a folder what SAELens
reads.
"""

from pythia_rt.harvest.arrow import write_arrow
from pythia_rt.harvest.folder import Harvest
from pythia_rt.harvest.harvester import harvest
from pythia_rt.harvest.iterating import iter_activations

__all__ = ["Harvest", "harvest", "iter_activations", "write_arrow"]
