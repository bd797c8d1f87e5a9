"""A command whose arguments may begin with a dash where they cannot be options."""

from __future__ import annotations

import re

import click

from pythia_rt.option_names import ours

# "- Update the kernel", "-5", "--- a/README" and "-Wall is a flag" are no options, for none has
# such a name; "-x" and "--temprature=1" could be slips of one.
_LIKE_AN_OPTION = re.compile(r"--?[A-Za-z][\w-]*(=.*)?", re.DOTALL)


class Command(click.Command):
    """Takes for an argument what has no option's name; its errors say how to pass what has one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the arguments behind the options and "--", then let click read them."""
        try:
            return super().parse_args(ctx, self._sorted(ctx, args))
        except click.NoSuchOption as error:
            raise click.UsageError(self._explained(error), ctx) from None

    def _sorted(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes_value = {
            name: isinstance(parameter, click.Option) and not (parameter.is_flag or parameter.count)
            for parameter in self.get_params(ctx)
            for name in [*parameter.opts, *parameter.secondary_opts]
            if name.startswith("-")
        }
        options: list[str] = []
        arguments: list[str] = []
        left = list(args)
        all_known = True
        while left:
            arg = left.pop(0)
            if arg == "--":
                arguments += left
                break
            name, equals, _ = arg.partition("=")
            if name in takes_value or (len(arg) > 1 and _LIKE_AN_OPTION.fullmatch(arg)):
                options.append(arg)
                all_known &= name in takes_value
                if takes_value.get(name) and not equals:
                    options += left[:1]
                    del left[:1]
            else:
                arguments.append(arg)
        if all_known:  # else click refuses the option, whose value may be among these
            self.check_arguments(ctx, arguments)
        return [*options, "--", *arguments] if arguments else options

    def check_arguments(self, ctx: click.Context, arguments: list[str]) -> None:
        """Raise UsageError for arguments that the command cannot take; by default click does."""

    def _explained(self, error: click.NoSuchOption) -> str:
        shown = error.format_message()
        name = ours(error.option_name.lstrip("-").replace("-", "_"))
        same = [p for p in self.params if p.name == name]
        if same:
            shown = f"No such option '{error.option_name}'. Use {max(same[0].opts, key=len)}."
        return f"{shown} An argument that begins with a dash goes behind -- (as in: -- -this)."


class PromptCommand(Command):
    """The same for one prompt, whose words may lack their quotes."""

    def check_arguments(self, ctx: click.Context, arguments: list[str]) -> None:
        """Raise UsageError for several arguments: the shell cut the prompt into words."""
        if len(arguments) > 1:
            raise click.UsageError(
                f"PROMPT must be one argument, not {len(arguments)}: put quotes around its words.",
                ctx,
            )
