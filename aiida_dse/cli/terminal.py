"""Output of the commands: names and texts from elsewhere cannot control the terminal."""

from __future__ import annotations

import click

from aiida_dse.documents.printable import printable


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text to the standard output or the standard error, without control characters."""
    click.echo(printable(text), err=err, nl=nl)


class Refusal(click.ClickException):
    """An error message for the user; the command ends with exit status 1."""

    def format_message(self) -> str:
        return printable(super().format_message())


