"""One document for each cluster of near duplicates (MinHash, Jaccard similarity of 5-grams at a threshold).

Four steps, each on arrays, for a pipeline to run apart: `signatures` (per bucket of documents), `band_keys` and
`pairs_in_band` (per band), `clusters` and `keepers` (once). Documents are numbered in one global order, which decides
nothing but ties; the clusters are the same for any order and any cut into buckets.
"""
