"""The command `pythia-rt`: generate, convert, evaluate, info."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pythia_rt
from pythia_rt.sampling import Sampling

if TYPE_CHECKING:
    from pythia_rt.model import Model


class _Commands(click.Group):
    """Turns the library's exceptions into one sentence and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = lambda message, *_: click.echo(f"Note: {message}", err=True)
                return super().invoke(context)
        except KeyboardInterrupt:
            click.echo(err=True)  # the shell's prompt starts on a line of its own
            context.exit(130)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own, and the reader of a pipe that went away: no news
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise click.ClickException(_sentence(error)) from error


def _seed(value: str) -> int | None:
    try:
        return None if value == "random" else int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a whole number nor 'random'.") from None


def _bias(value: str) -> tuple[int, float]:
    token, _, bias = value.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not ID=VALUE, as in 42=-1.5.") from None


def _sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option per field of `Sampling`, with its default and its help text."""
    for option in reversed(fields(Sampling)):
        name = "--" + option.name.replace("_", "-")
        doc = option.metadata["doc"]
        if option.name == "logit_bias":
            add = click.option(name, type=_bias, multiple=True, metavar="ID=VALUE", help=doc)
        elif option.name == "stop":
            add = click.option(name, multiple=True, metavar="TEXT", help=doc)
        elif option.name == "seed":
            doc = "Seed of the random numbers, or 'random'."
            add = click.option(
                name, type=_seed, default="0", show_default=True, metavar="SEED", help=doc
            )
        else:
            kind = type(option.default)
            add = click.option(name, type=kind, default=option.default, show_default=True, help=doc)
        command = add(command)
    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pythia_rt.__version__, prog_name="pythia-rt")
def main() -> None:
    """Run GPT-NeoX language models on the CPU or a CUDA device."""


@main.command("generate")
@click.argument("prompt", required=False)
@click.option("--model", metavar="MODEL", help="Hub id, folder or flat file.  [default: demo]")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--format", "format", help="Weight format to convert to.  [default: q4]")
@click.option("--threads", type=int, help="Threads to compute with.  [default: physical cores]")
@click.option("--kv-format", help="Of the KV cache: f16, f32, q8; by default f32 for f32 weights.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep flat files.")
@click.option("--local-files-only", is_flag=True, help="Download nothing.")
@click.option("--copy", is_flag=True, help="Copy the weights into memory first.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, auto.")
@click.option("--gpu-layers", type=int, help="Run so many layers there, the CPU the rest.")
@click.option("--quiet", is_flag=True, help="Show no progress and no speed.")
@_sampling_options
def generate_text(
    prompt: str | None,
    model: str | None,
    revision: str | None,
    format: str | None,
    threads: int | None,
    kv_format: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    copy: bool,
    device: str,
    gpu_layers: int | None,
    quiet: bool,
    logit_bias: Sequence[tuple[int, float]],
    **sampling: Any,
) -> None:
    """Continue PROMPT and write the new text to standard output.

    Without PROMPT, or when it is -, the prompt is read from standard input as UTF-8; one newline
    at its end is dropped. The speed is written to standard error.
    """
    chosen = Sampling(logit_bias=dict(logit_bias), **sampling)
    text = _read_prompt() if prompt in (None, "-") else str(prompt)
    loaded = _load_model(
        model,
        revision=revision,
        format=format,
        threads=threads,
        kv_format=kv_format,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        copy=copy,
        device=device,
        gpu_layers=gpu_layers,
        progress=not quiet,
    )
    with loaded.stream(text, chosen) as stream:
        for piece in stream:
            click.echo(piece.encode(), nl=False)  # bytes: UTF-8 whatever the locale says
    click.echo()
    if not quiet:
        click.echo(_speed(stream.result, loaded), err=True)


@main.command("convert")
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--format", "format", default="q4", show_default=True, help="Weight format.")
@click.option("--embed", help="Format of the embeddings.  [default: the recipe's]")
@click.option("--head", help="Format of the output head.  [default: the recipe's]")
@click.option("--attention", help="Format of the attention layers.  [default: the recipe's]")
@click.option("--mlp", help="Format of the MLP layers.  [default: the recipe's]")
@click.option("--activation", help="Use this activation in place of the config's, as gelu_tanh.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep downloads.")
@click.option("--threads", type=int, help="Threads to pack with.  [default: physical cores]")
@click.option("--force", is_flag=True, help="Overwrite DESTINATION.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="TEXT",
    help="UTF-8 file of typical text: the weights are rounded so that it loses least.",
)
@click.option("--calibrate-tokens", type=int, help="Tokens of it to use.  [default: 16384]")
@click.option("--report", is_flag=True, help="Measure the result and store that in it, for info.")
@click.option(
    "--report-text",
    type=click.Path(path_type=Path),
    help="UTF-8 file to measure on, implies --report.  [default: a short one of ours]",
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
def convert_checkpoint(
    source: str,
    destination: Path,
    report: bool,
    report_text: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert SOURCE, a hub id or a local folder, to the flat file DESTINATION."""
    from pythia_rt.convert import convert

    if report or report_text is not None:
        from pythia_rt.evaluation import reporter

        options["report"] = reporter(report_text, threads=options["threads"], progress=not quiet)
    path = convert(source, destination, progress=not quiet, **options)
    if not quiet:
        click.echo(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB", err=True)


@main.command("evaluate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--text", type=click.Path(path_type=Path), required=True, help="UTF-8 file to measure on."
)
@click.option("--reference", help="Flat file, folder or hub id to compare with.")
@click.option("--revision", help="Branch, tag or commit of a hub reference.")
@click.option("--window", type=int, help="Tokens of a window.  [default: 512, or the context]")
@click.option("--stride", type=int, help="Tokens from window to window.  [default: the window]")
@click.option("--max-tokens", type=int, help="Read no more than this of the text.")
@click.option("--weights/--no-weights", default=True, help="Compare the weights too, or not.")
@click.option("--kv-format", help="Of the KV cache: f16, f32, q8; by default f32 for f32 weights.")
@click.option("--reference-kv-format", help="The same for the reference.  [default: f32]")
@click.option("--threads", type=int, help="Threads to compute with.  [default: physical cores]")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="Where to keep downloads.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw a PNG too (needs matplotlib).")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def evaluate_file(
    file: Path,
    text: Path,
    reference: str | None,
    weights: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure how well the flat file FILE predicts a text.

    With a reference, such as the checkpoint it was converted from, also how far it is from that.
    """
    from pythia_rt.evaluation import evaluate
    from pythia_rt.evaluation.plot import check_plot, write_plot
    from pythia_rt.evaluation.table import lines

    _refuse_unused_reference(reference, options)
    if plot is not None:
        check_plot(plot)
    result = evaluate(
        file, text, reference=reference, weights=weights, progress=not quiet, **options
    )
    if plot is not None:
        write_plot(result, plot)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        for line in lines(result):
            click.echo(line)


@main.command("info")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Read all data and compare its SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def show_info(file: Path, verify: bool, as_json: bool) -> None:
    """Show what the flat file FILE holds."""
    from pythia_rt.info import describe, lines

    facts = describe(file, verify=verify)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for line in lines(facts):
            click.echo(line)


def _read_prompt() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("Give a PROMPT, or pipe one into standard input.")
    content = sys.stdin.buffer.read()
    try:
        return content.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the prompt on standard input is not UTF-8: byte 0x{content[error.start]:02x} at "
            f"offset {error.start} is wrong, so convert it first"
        ) from None


def _load_model(model: str | None, **options: Any) -> Model:
    from pythia_rt.model import Model

    is_file = model is not None and Path(model).is_file()
    is_local = model is None or Path(model).exists()
    _refuse_unused(options, flat_file=is_file, local=is_local)
    options["format"] = options["format"] or "q4"
    keys = ("threads", "kv_format", "copy", "device", "gpu_layers")
    running = {key: options[key] for key in keys}
    if model is None:
        return Model.demo(format=options["format"], cache_dir=options["cache_dir"], **running)
    if is_file:
        return Model.load(model, **running)
    return Model.from_pretrained(model, **options)


def _refuse_unused(options: dict[str, Any], *, flat_file: bool, local: bool) -> None:
    """An option that would be ignored is an error, so that nobody believes it had an effect."""
    if flat_file and options["format"]:
        raise click.UsageError("--format is for hub models and folders: a flat file has one.")
    if flat_file and options["cache_dir"]:
        raise click.UsageError("--cache-dir is for hub models and folders, not for a flat file.")
    if local and options["revision"]:
        raise click.UsageError("--revision is for hub models: local files have none to choose.")


def _refuse_unused_reference(reference: str | None, options: dict[str, Any]) -> None:
    """The same for `evaluate`, whose checkpoint is the reference."""
    local = reference is not None and Path(reference).exists()
    for name in ("revision", "cache_dir", "reference_kv_format"):
        option = "--" + name.replace("_", "-")
        if options[name] is not None and reference is None:
            raise click.UsageError(f"{option} is for --reference, which is not given.")
        if options[name] is not None and local and name != "reference_kv_format":
            raise click.UsageError(f"{option} is for hub models: {reference} is a local one.")


def _speed(result: pythia_rt.Generation, model: Model) -> str:
    timing = result.timing
    return (
        f"prefill {timing.prompt_tokens} tokens at {timing.prefill_tokens_per_second:.1f} tokens/s"
        f", decode {timing.new_tokens} tokens at {timing.decode_tokens_per_second:.1f} tokens/s "
        f"(ended by {result.finish_reason}; {model.runs_on})"
    )


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
