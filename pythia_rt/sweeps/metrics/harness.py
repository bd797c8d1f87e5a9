"""Tasks of lm-evaluation-harness, which is the extra `lm-eval`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.metadata
import io
import numbers
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pythia_rt.convert.errors import shown
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, metric
from pythia_rt.sweeps.metrics.whole import whole

_SEED = 1234  # the harness's own of few-shot examples
_REPLICATES = 1000  # for the errors that it has no formula for


@metric
class Harness(Metric):
    """What lm-evaluation-harness measures in `tasks`, names with "+" between them.

    Values are called task.metric, as "sciq.acc", with the harness' own errors; `fewshot` is its
    num_fewshot, `limit` documents of each task are read, `include` is a folder with more tasks.
    """

    name = "harness"

    tasks: str
    fewshot: int | None = whole(0, default=None)
    limit: int | None = None
    include: str | None = None

    def __post_init__(self) -> None:
        """Refuse a missing harness, and what names no tasks, before anything is fetched."""
        try:
            import pythia_rt.lm_eval as registered
        except ImportError as error:
            if error.name != "lm_eval":
                raise
            raise ValueError(str(error)) from None
        _ = registered
        if not isinstance(self.tasks, str):
            raise ValueError(f'tasks must be names with "+" between them, not {shown(self.tasks)}')
        if not isinstance(self.include, (str, os.PathLike, type(None))):
            raise ValueError(f"include must be a folder's path, not {shown(self.include)}")

    def check(self) -> None:
        """Refuse tasks that the harness does not know. What they are measured on it fetches."""
        if self.include is not None and not Path(self.include).is_dir():
            raise ValueError(f"{self.include} is no folder: include names one with tasks")
        known = _tasks(self.include).all_tasks
        for name in self.tasks.split("+"):
            if name in known or Path(name).expanduser().is_file():  # a task's own YAML
                continue
            near = difflib.get_close_matches(name, known, n=2)
            meant = f"did you mean {' or '.join(near)}?" if near else "see its list of tasks"
            raise ValueError(f"lm-evaluation-harness has no task {name!r}: {meant}")

    def options(self) -> dict[str, Any]:
        """Its release as well: tasks change with it. Where `include` is does not matter."""
        found = super().options()
        del found["include"]
        return {**found, "lm_eval": importlib.metadata.version("lm_eval")}

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Run the tasks, as `lm_eval.simple_evaluate` does, but for its look at the machine, which
        takes longer than many a task."""
        from lm_eval.evaluator import evaluate

        from pythia_rt.lm_eval.model import PythiaRtLM

        with contextlib.redirect_stdout(io.StringIO()), _one_process():  # it prints
            loaded = _tasks(self.include).load(self.tasks.split("+"))
            for task in loaded["tasks"].values():
                own = task.get_config("num_fewshot")
                if self.fewshot is not None and own != 0:
                    task.set_config(key="num_fewshot", value=self.fewshot)
                elif own is None:
                    task.set_config(key="num_fewshot", value=0)
                task.set_fewshot_seed(seed=_SEED)
            found: Any = evaluate(
                PythiaRtLM(model),
                loaded,
                limit=self.limit,
                bootstrap_iters=_REPLICATES,
                log_samples=False,
            )
        values = []
        for task, results in found["results"].items():
            n = int(found.get("n-samples", {}).get(task, {}).get("effective", 1))
            for key, value in results.items():
                name, _, kind = key.partition(",")
                if not isinstance(value, numbers.Real) or name.endswith("_stderr") or not kind:
                    continue
                error = results.get(f"{name}_stderr,{kind}")
                stderr = float(error) if isinstance(error, numbers.Real) else None
                shown = name if kind == "none" else f"{name}.{kind}"
                values.append(Value(f"{task}.{shown}", float(value), stderr, n))
        return Measured(values)


@functools.lru_cache(1)
def _tasks(include: str | None) -> Any:
    """The harness' TaskManager; it reads thousands of files, which takes seconds, so once."""
    from lm_eval.tasks import TaskManager

    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        return TaskManager(include_path=include)


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """Have it draw its replicates here: it would fork, and this process has threads."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
