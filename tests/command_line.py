"""The commands of shibolet with their options, for tests that read what the documentation says of them."""

from functools import cache

import typer

from shibolet.cli import app


@cache
def commands() -> dict[str, set[str]]:
    """Options by command."""
    group = typer.main.get_command(app)
    return {
        name: {opt for param in one.params for opt in [*param.opts, *param.secondary_opts]}
        for name, one in group.commands.items()
    }
