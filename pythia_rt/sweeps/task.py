"""What is done with one checkpoint, here or in another process."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pythia_rt.convert import FlatFile
from pythia_rt.convert.errors import NoTokenizerWarning
from pythia_rt.convert.files.system import user_id
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric
from pythia_rt.sweeps.plan import Unit
from pythia_rt.sweeps.prepare import convert_unit, digest_of_made, fetch

Outcome = Measured | Exception


def shared_folder(work: str) -> Path:
    """The folder that tasks of a sweep share on this machine."""
    return Path(tempfile.gettempdir()) / f"pythia_rt-sweep-{user_id()}" / work


@dataclass(frozen=True)
class Known:
    """A checkpoint and the digest of its files, "" for one of the hub, which has a commit."""

    unit: Unit
    digest: str

    @property
    def identity(self) -> str:
        """The digest or the commit."""
        return self.digest or self.unit.commit


@dataclass(frozen=True)
class Task:
    """One checkpoint, and how it is to be measured.

    `references` are checkpoints to compare with, by step. Files are made in `work`; where that is
    relative, in the folder for temporary ones of the machine that runs the task.
    """

    known: Known
    form: str
    references: Mapping[int, Known]
    threads: int | None
    work: str

    @property
    def shared(self) -> Path:
        """The folder that tasks of the sweep share."""
        return shared_folder(self.work)

    @property
    def folder(self) -> Path:
        """The folder of this task alone: the same one when it is tried again, so that downloads go
        on where they stopped."""
        unit = self.known.unit
        place = f"{unit.model}-{unit.step}-{self.form}-{self.known.identity[:16]}"
        return self.shared / place.replace("/", "--")

    def drop(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def kept_unless_it_fails(self) -> Iterator[None]:
        """Remove its files after an exception; Ctrl-C is none, the next sweep goes on with them."""
        try:
            yield
        except Exception:
            self.drop()
            raise


@dataclass(frozen=True)
class Fetched:
    """A task whose source is here; `made` is the digest where even the flat file is."""

    task: Task
    source: Path
    made: str | None


@dataclass(frozen=True)
class Prepared:
    """A task whose flat file is here, the digest of what that was made from, and why it has no
    tokenizer, "" where it has one."""

    task: Task
    path: Path
    digest: str
    no_tokenizer: str


@dataclass(frozen=True)
class Done:
    """What became of a task: what `Prepared` says of it, and an outcome per metric."""

    digest: str
    no_tokenizer: str
    outcomes: list[Outcome]


class RemoteError(Exception):
    """Somebody's exception, by name: its class may be unknown to the process that reads it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


@contextlib.contextmanager
def telling_once() -> Iterator[None]:
    """Have conversions not warn of each checkpoint that has no tokenizer: the sweep does, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoTokenizerWarning)
        yield


def fetch_task(task: Task) -> Fetched:
    """Fetch the source. Raises what that raises."""
    path = task.folder / "model.safetensors"
    with task.kept_unless_it_fails():
        task.folder.mkdir(parents=True, exist_ok=True)
        made = digest_of_made(path, task.known.digest)
        source = path if made else fetch(task.known.unit, task.folder / "hub")
    return Fetched(task, source, made)


def convert_task(fetched: Fetched) -> Prepared:
    """Convert it, and drop what was downloaded. Raises what converting raises."""
    task = fetched.task
    path = task.folder / "model.safetensors"
    with task.kept_unless_it_fails():
        digest = fetched.made or convert_unit(
            task.known.unit, task.known.digest, fetched.source, path, task.form, task.threads
        )
    shutil.rmtree(task.folder / "hub", ignore_errors=True)
    return Prepared(task, path, digest, FlatFile(path).no_tokenizer)


def measure_task(prepared: Prepared, metrics: tuple[Metric, ...]) -> Iterator[Outcome]:
    """Measure each of `metrics`; what one raises is its outcome."""
    task = prepared.task
    model = Model.load(prepared.path, threads=task.threads)
    for metric in metrics:
        try:
            reference = None if metric.step is None else _reference(task, metric.step)
            yield metric.measure(model, reference)
        except Exception as error:
            yield error


@telling_once()
def run_task(task: Task, metrics: tuple[Metric, ...]) -> Done:
    """All of it, in a worker. Raises `RemoteError` or OSError where nothing could be measured."""
    try:
        prepared = convert_task(fetch_task(task))
        with task.kept_unless_it_fails():
            found = measure_task(prepared, metrics)
            outcomes = [_portable(each) if isinstance(each, Exception) else each for each in found]
    except Exception as error:
        raise _portable(error) from None
    task.drop()
    return Done(prepared.digest, prepared.no_tokenizer, outcomes)


def _portable(error: Exception) -> Exception:
    """The same without a class that another process may lack; a full disk stays one."""
    if isinstance(error, OSError) and error.errno:
        return error
    return RemoteError(type(error).__name__, str(error))


def _reference(task: Task, step: int) -> Model:
    """The model at another step, converted once for all tasks that work in the same place."""
    from filelock import FileLock  # few sweeps compare

    known = task.references[step]
    path = task.shared / f"reference-{known.identity[:16]}-{task.form}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        if digest_of_made(path, known.digest) is None:
            cache = path.with_suffix(".hub")
            folder = fetch(known.unit, cache)
            convert_unit(known.unit, known.digest, folder, path, task.form, task.threads)
            shutil.rmtree(cache, ignore_errors=True)
    return Model.load(path, threads=task.threads)
