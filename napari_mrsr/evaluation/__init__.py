"""Numbers and maps that say how good a result is."""
