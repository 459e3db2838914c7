"""The console that verbs print on."""

import sys

from rich.console import Console


class PlainConsole(Console):
    """Prints what people typed as it is: `[x]` in a path is no markup; a closed pipe is no error.

    Off a terminal lines are as long as they are, so that a script can read them.
    """

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else 200
        super().__init__(width=width, soft_wrap=True, markup=False, highlight=False)

    def on_broken_pipe(self) -> None:
        """Let the command line decide; rich's own exits with 1."""
        raise BrokenPipeError
