"""Measurements, and the random checkpoints they run on. bench/README.md says how to run them."""

import sys
from pathlib import Path

# "python -m bench.x" puts the checkout first in the path, where pythia_rt has no compiled core:
# the installed package has to win.
ROOT = Path(__file__).resolve().parent.parent  # of the checkout
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
sys.path.append(str(ROOT))
