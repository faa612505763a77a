"""Process groups, the collectives that layers and optimizers call, and random numbers that know no layout."""
