"""Lines of a job's log."""

import time


def say(text: str) -> None:
    """Put a line into the job's log, with the time."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}", flush=True)
