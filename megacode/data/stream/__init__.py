"""From shards to samples: sample n of a run is a function of (seed, n) and the shards alone, computed on the spot."""
