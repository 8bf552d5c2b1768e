"""Where groups of cells are run: `local` in child processes, `inline` in this one, `ray` in a cluster."""
