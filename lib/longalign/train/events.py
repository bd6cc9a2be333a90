"""The events of a training run: one JSON line per optimizer step, readable while it grows."""

import json
from pathlib import Path
from typing import Any


def read_events(path: Path | str) -> list[dict[str, Any]]:
    """The events so far, `[]` where there are none; a last line that was cut short is left out.

    Keys: step, steps, loss, grad_norm, learning_rate, tokens, seconds, cpu_seconds (these three are totals), memory_mb
    (the largest so far).
    """
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:  # a run that is finished meanwhile takes its working folder away
        return []
    events = []
    for line in lines:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return events
