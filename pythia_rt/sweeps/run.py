"""sweep(): measure many checkpoints, as far as that was not done before."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pythia_rt.convert.files.destination import check_new_folder, make_folder
from pythia_rt.convert.quantise.recipe import check_formats
from pythia_rt.convert.threads import checked_threads
from pythia_rt.options import whole_number_from
from pythia_rt.sweeps.metrics import read_metrics
from pythia_rt.sweeps.metrics.base import Measured, Metric
from pythia_rt.sweeps.pipeline import staged
from pythia_rt.sweeps.plan import Suite, Unit, suites_of
from pythia_rt.sweeps.prepare import read_digest
from pythia_rt.sweeps.processes import Processes
from pythia_rt.sweeps.results import Key, Store
from pythia_rt.sweeps.task import (
    Done,
    Fetched,
    Known,
    Outcome,
    Prepared,
    Task,
    convert_task,
    fetch_task,
    measure_task,
    run_task,
    shared_folder,
    telling_once,
)

_MOST_WORKERS = 1024
# Every further checkpoint would meet these too.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    `rows` are those of results.jsonl: a dict for each number, with model, step, commit, digest,
    format, metric, value, stderr, n, asked (the metric with its options, as one types it), and
    arrays, the file of its arrays in `folder` or None.
    `pandas.DataFrame(sweep.rows)` is a table of them. `failures` say what could not be measured,
    `measured` and `skipped` count results of this call and those that were there before.
    """

    folder: Path
    rows: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    measured: int
    skipped: int


def sweep(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    metrics: Iterable[Metric | str | Callable[..., Any]],
    out: str | os.PathLike[str],
    steps: str | int | Iterable[int] = "all",
    format: str = "q8",
    executor: Executor | Callable[[], Executor] | None = None,
    workers: int = 1,
    threads: int | None = None,
    offline: bool = False,
    progress: bool = True,
) -> Sweep:
    """Measure `metrics` of checkpoints of `models`, and keep what was found in the folder `out`.

    `models` are hub ids, folders with step<N> folders, or folders of one checkpoint; `steps` is
    "all", "log" (each at least twice the one before), "evals" (those of Pythia's published
    evaluations), or steps. Each checkpoint is fetched, verified, converted to `format`, measured
    and dropped again, so that the disk holds few at a time; meanwhile the next ones are fetched
    and converted. `metrics` are names with options, as "perplexity:text.txt", objects of
    pythia_rt.sweeps.metrics, or functions of a `Model` (docs/sweeps.md).

    Each metric of each checkpoint is a file of its own in `out`, which appears complete or not at
    all: a call that was interrupted or killed goes on where it stopped. What fails is recorded,
    the rest goes on, and the next call tries it again. The results are the same to the bit
    whatever the executor is: this process, `workers` processes of this machine, or any
    `concurrent.futures.Executor`, as `pythia_rt.sweeps.RayCluster`, which is the caller's to end;
    of a function that makes one, what it makes is begun once all else is checked, and ended here.
    `threads` are those of a checkpoint; with `workers` by default the processor's share of each.

    Raises ValueError for bad arguments, steps that do not exist, metrics that nobody knows and what
    those cannot measure (`Metric.check`), FileNotFoundError for models and texts that do not exist,
    OSError where `out` cannot be written, all before anything is fetched or converted; OSError too
    where the disk is full: what was measured stays.
    """
    chosen = tuple(read_metrics(metrics))
    check_formats(format)
    whole_number_from(1, _MOST_WORKERS, "processes")("workers", workers)
    if executor is not None and workers != 1:
        raise ValueError("workers has no effect with an executor: leave one of them out")
    if threads is not None:
        checked_threads(threads)
    folder = Path(out).expanduser()
    check_new_folder(folder)
    for metric in chosen:
        metric.check()
    suites = suites_of(models, steps, offline=offline)
    for suite in suites.values():
        for metric in chosen:
            if metric.step is not None:
                suite.at(metric.step)
    make_folder(folder)
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise OSError(
            f"another sweep writes in {out}: wait for it, or choose another folder"
        ) from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(held)
        if callable(executor):
            executor = stack.enter_context(executor())
        stack.enter_context(telling_once())
        run = stack.enter_context(_Run(suites, chosen, format, threads, folder, progress))
        if executor is not None:
            run.elsewhere(executor, is_remote=True)
        elif workers == 1:
            run.here()
        else:
            run.threads = threads or max(1, checked_threads(None) // workers)
            with Processes(workers) as processes:
                run.elsewhere(processes, is_remote=False)
    return Sweep(folder, run.store.rows(), run.store.all_failures(), run.measured, run.skipped)


@dataclass(frozen=True)
class _Lacking:
    """A checkpoint with what is to be measured of it."""

    task: Task
    metrics: tuple[Metric, ...]
    keys: tuple[Key, ...]


class _Run:
    """A sweep under way: what is lacking, who measures it, and where that goes."""

    def __init__(
        self,
        suites: Mapping[str, Suite],
        metrics: tuple[Metric, ...],
        form: str,
        threads: int | None,
        folder: Path,
        progress: bool,
    ) -> None:
        self.store = Store(folder)
        self.threads = threads
        self.measured = 0
        self.skipped = 0
        self._has_told = False
        self._suites = suites
        self._metrics = metrics
        self._form = form
        self._work = folder.resolve() / "work"
        self._token = hashlib.sha256(str(self._work).encode()).hexdigest()[:16]
        self._references: dict[Unit, Known] = {}
        self._bar = tqdm(
            total=sum(len(suite.chosen) for suite in suites.values()),
            desc="sweeping",
            unit="checkpoint",
            disable=not progress,
        )

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Write the tables, however the sweep ended, and remove working files; after Ctrl-C they
        stay, as after a kill, for the sweep that goes on."""
        self._bar.close()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for place in (self._work, shared_folder(self._token)):
                shutil.rmtree(place, ignore_errors=True)
        # What went wrong before, perhaps a full disk, is the news.
        with contextlib.suppress(OSError) if error is not None else contextlib.nullcontext():
            self.store.write_tables()

    def here(self) -> None:
        """Measure in this thread, while others fetch and convert what comes next."""

        def fetched(unit: Unit) -> tuple[_Lacking, Fetched] | None:
            lacking = self._lacking(unit, str(self._work))
            return None if lacking is None else (lacking, fetch_task(lacking.task))

        def converted(item: tuple[_Lacking, Fetched] | None) -> tuple[_Lacking, Prepared] | None:
            return None if item is None else (item[0], convert_task(item[1]))

        for unit, future in staged(self._units(), fetched, converted):
            with self._counted(unit):
                found = future.result()
                if found is None:
                    continue
                lacking, prepared = found
                self._tell(unit, prepared.no_tokenizer, stacklevel=4)
                with lacking.task.kept_unless_it_fails():
                    outcomes = measure_task(prepared, lacking.metrics)
                    for key, outcome in zip(lacking.keys, outcomes, strict=True):
                        self._keep(unit, key, prepared.digest, outcome)
                lacking.task.drop()

    def elsewhere(self, executor: Executor, *, is_remote: bool) -> None:
        """Have an executor do each checkpoint as one task."""
        work = self._token if is_remote else str(self._work)  # other machines have other folders
        waiting: dict[Future[Done], tuple[Unit, _Lacking]] = {}
        try:
            for unit in self._units():
                try:
                    lacking = self._lacking(unit, work)
                except Exception as error:
                    with self._counted(unit):
                        raise error
                    continue
                if lacking is None:
                    self._bar.update()
                    continue
                future = executor.submit(run_task, lacking.task, lacking.metrics)
                waiting[future] = (unit, lacking)
                for done in [each for each in waiting if each.done()]:
                    self._gather(done, *waiting.pop(done))
            for done in as_completed(list(waiting)):
                self._gather(done, *waiting.pop(done))
        finally:
            for future in waiting:
                future.cancel()

    def _gather(self, future: Future[Done], unit: Unit, lacking: _Lacking) -> None:
        with self._counted(unit):
            done = future.result()
            self._tell(unit, done.no_tokenizer, stacklevel=5)
            for key, outcome in zip(lacking.keys, done.outcomes, strict=True):
                self._keep(unit, key, done.digest, outcome)

    def _units(self) -> list[Unit]:
        return [unit for suite in self._suites.values() for unit in suite.chosen]

    def _lacking(self, unit: Unit, work: str) -> _Lacking | None:
        """What was not measured before; None if everything was. Reads a local folder's files."""
        known = _known(unit)
        references = {
            metric.step: self._reference(unit.model, metric.step)
            for metric in self._metrics
            if metric.step is not None
        }
        pairs = []
        for metric in self._metrics:
            reference = None if metric.step is None else references[metric.step].identity
            key = Key(unit, known.digest, self._form, metric, reference)
            if self.store.has(key):
                self.skipped += 1
            else:
                pairs.append((metric, key))
        if not pairs:
            return None
        task = Task(known, self._form, references, self.threads, work)
        return _Lacking(task, tuple(m for m, _ in pairs), tuple(k for _, k in pairs))

    def _reference(self, model: str, step: int) -> Known:
        unit = self._suites[model].at(step)
        if unit not in self._references:
            self._references[unit] = _known(unit)
        return self._references[unit]

    def _keep(self, unit: Unit, key: Key, digest: str, outcome: Outcome) -> None:
        if isinstance(outcome, Measured):
            self.store.write(key, digest, outcome)
            self.measured += 1
        elif _is_full(outcome):
            raise outcome
        else:
            self.store.fail(unit, key, outcome)

    def _tell(self, unit: Unit, no_tokenizer: str, *, stacklevel: int) -> None:
        """Warn of the first checkpoint without a tokenizer: the others will hardly have one."""
        if no_tokenizer and not self._has_told:
            self._has_told = True
            warnings.warn(
                f"{unit.where} has no tokenizer ({no_tokenizer}), so it is measured on token ids, "
                "as a .npy has them, and not on texts; of others the sweep will not say so again",
                stacklevel=stacklevel,
            )

    @contextlib.contextmanager
    def _counted(self, unit: Unit) -> Iterator[None]:
        """Count a checkpoint as done; what it raises is kept, but what would meet all others."""
        self.store.forget_failures(unit)
        try:
            yield
        except Exception as error:
            if _is_full(error):
                raise
            self.store.fail(unit, None, error)
        self._bar.update()


def _known(unit: Unit) -> Known:
    return Known(unit, read_digest(Path(unit.source)) if unit.is_local else "")


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL
