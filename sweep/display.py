"""A display that is rewritten in place on a terminal, and nothing elsewhere."""

from typing import Any, Self

from rich.console import Console
from rich.live import Live


class TerminalDisplay:
    """Context manager around rich's Live; a log file or a pipe gets none of it."""

    def __init__(self, console: Console, **options: Any) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, **options)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self.live.stop()
