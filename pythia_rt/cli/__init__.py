"""The command `pythia-rt`, with a module for each of its commands."""

from __future__ import annotations

import click

import pythia_rt
from pythia_rt.cli.audit import audit_suite
from pythia_rt.cli.chat import chat_with_model
from pythia_rt.cli.checkpoints import list_checkpoints
from pythia_rt.cli.convert import convert_checkpoint
from pythia_rt.cli.evaluate import evaluate_file
from pythia_rt.cli.generate import generate_text
from pythia_rt.cli.group import Commands
from pythia_rt.cli.harvest import harvest_activations
from pythia_rt.cli.info import show_info
from pythia_rt.cli.lm_eval import run_harness
from pythia_rt.cli.sweep import sweep_models


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pythia_rt.__version__, prog_name="pythia-rt")
def main() -> None:
    """Run language models, Pythia above all, on the CPU or a CUDA device."""


for command in (
    generate_text,
    chat_with_model,
    convert_checkpoint,
    list_checkpoints,
    evaluate_file,
    sweep_models,
    run_harness,
    harvest_activations,
    show_info,
    audit_suite,
):
    main.add_command(command)
