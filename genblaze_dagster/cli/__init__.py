"""The `genblaze-dagster` command. Importing this package imports none of it."""

from typing import NoReturn


def main() -> NoReturn:
    """Run the command with the process's arguments and exit with its code."""
    from genblaze_dagster.cli.app import cli

    cli.main(prog_name="genblaze-dagster")
    raise AssertionError("click ends the process itself")
