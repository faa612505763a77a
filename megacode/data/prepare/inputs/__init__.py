"""From what the configuration names to rows: which files, where they are from, and what is wrong with them."""
