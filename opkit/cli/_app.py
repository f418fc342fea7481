"""The typer application; usage errors in one line, with suggestions."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from solvers.names import suggest

from . import (
    _options,
    adapt,
    compare,
    data,
    demo,
    evaluate,
    fit,
    generate,
    invert,
    list_,
    predict,
    report,
    verify,
)

__all__ = ["app", "run"]

#: typer's base of usage errors (typer vendors click in some versions, so it is not imported).
_ClickException: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)

app = typer.Typer(
    name="opkit",
    help="Operator learning with a solver backend: make PDE data, train an operator, use it.",
    epilog="Start with: opkit demo. Then: opkit generate darcy -n 1000 -o darcy",
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from opkit import __version__

        typer.echo(f"opkit {__version__}")
        raise typer.Exit


@app.callback()
def opkit(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Operator learning with a solver backend: make PDE data, train an operator, use it."""


app.command("generate")(generate.generate)
app.command("fit")(fit.fit)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("adapt")(adapt.adapt)
app.command("invert")(invert.invert)
app.command("report")(report.report)
app.command("verify")(verify.verify)
app.command("list")(list_.list_)
app.add_typer(data.app, name="data")
app.command("demo")(demo.demo)


def run(args: Sequence[str]) -> int:
    """Run with `args`; usage errors are told in one line and return 2."""
    _options.arguments[:] = args
    command = typer.main.get_command(app)
    try:
        # not command.main(), which swallows what a KeyboardInterrupt says
        with command.make_context("opkit", list(args)) as context:
            command.invoke(context)
        return 0
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except _ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # type: ignore[attr-defined]
            return 0
        sys.stderr.write(f"{_usage_line(error)}\n")
        return 2


def _usage_line(error: Any) -> str:
    """Tell a usage error in one line: what was wrong, the nearest name, where the help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "opkit"
    message = " ".join(error.format_message().split())
    unknown = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        options = [o for p in context.command.params for o in p.opts if o.startswith("--")]
        message = f"no option {unknown!r}.{suggest(unknown or '', options)}"
    elif "No such command" in message and context is not None:
        commands = list(context.command.commands)
        name = message.split("'")[1]
        near = suggest(name, commands)
        message = f"no command {name!r}.{near} Commands: {', '.join(commands)}."
    return f"{path}: {message} ({path} --help shows what is allowed)"
