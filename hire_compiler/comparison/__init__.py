"""Two programs beside each other: results that differ, milliseconds taken in turns, as plain data."""
