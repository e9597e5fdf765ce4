"""Output of the commands: names and texts from elsewhere cannot control the terminal."""

from __future__ import annotations

import os
from typing import Any

import click

from aiida_dse.documents.printable import printable


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text to the standard output or the standard error, without control characters."""
    click.echo(printable(text), err=err, nl=nl)


class Refusal(click.ClickException):
    """An error message for the user; the command ends with exit status 1."""

    def format_message(self) -> str:
        return printable(super().format_message())


class CommandGroup(click.Group):
    """A group whose commands report problems of the storage without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as problem:
            from aiida_dse.data.storage_trouble import storage_trouble

            found = storage_trouble(problem)
            if found and "DSE_TRACEBACK" not in os.environ:
                raise Refusal(found) from None
            raise
