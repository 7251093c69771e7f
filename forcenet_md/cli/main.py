"""The command `forcenet-md`: the modules of this package are verbs of the same names."""

from __future__ import annotations

import errno
import os
import signal
import sys  # all else is imported where Ctrl-C is already caught
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

    import typer

NO_VERBS = ("main", "loading", "options", "stopping")


def main() -> None:
    """Run the command line: a fault the user can mend is one sentence and exit code 1."""
    try:
        signal.signal(signal.SIGTERM, _terminate)

        from forcenet_md.errors import ForceNetError

        try:
            try:
                build_app()()
            finally:
                if sys.stdout:
                    sys.stdout.flush()  # here, where a full disk can still be said
        except ForceNetError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
                raise
            # What could not be written must not be tried again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            if error.errno == errno.EPIPE:  # the reader has seen enough
                sys.exit(1)
            _fail("the disk is full: free some space and try again.")
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Clean up as Ctrl-C does: no half-written file and no process is left behind."""

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is SystemExit:
            os._exit(128 + number)  # a callback of the import system has dropped it

    sys.unraisablehook = lost
    sys.exit(128 + number)


def _fail(sentence: str) -> None:
    print(f"forcenet-md: error: {sentence}", file=sys.stderr)
    sys.exit(1)


def build_app() -> typer.Typer:
    """The typer application with one command per verb.

    The verbs' modules import what is heavy (torch, ase) inside their function, so that `--help`
    is quick.
    """
    import importlib
    import pkgutil

    import typer
    from typer.core import TyperCommand

    import forcenet_md
    from forcenet_md import cli
    from forcenet_md.cli.options import one_by_one

    class Verb(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, one_by_one(args))

    app = typer.Typer(
        help="Force server for LAMMPS, i-PI and ASE.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback(invoke_without_command=True)
    def version(
        show: bool = typer.Option(False, "--version", help="Print the version and exit."),
    ) -> None:
        if show:
            typer.echo(f"forcenet-md {forcenet_md.__version__}")
            raise typer.Exit

    for module in pkgutil.iter_modules(cli.__path__):
        if module.name not in NO_VERBS:
            loaded = importlib.import_module(f"{cli.__name__}.{module.name}")
            name, verb = module.name.replace("_", "-"), getattr(loaded, module.name)
            if isinstance(verb, typer.Typer):  # a verb with verbs of its own
                app.add_typer(verb, name=name)
            else:
                context = getattr(loaded, "CONTEXT", None)
                app.command(name, cls=Verb, context_settings=context)(verb)
    return app
