"""Map a function over items on worker processes or a cluster. Knows no model and no law."""
