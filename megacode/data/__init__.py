"""From files of code to micro-batches: prepare, tokenize, index, fill in the middle, sample.

The path of a document: `prepare` filters and deduplicates it into `train.jsonl.zst`, `tokenize` encodes it into
`train.bin/.idx`, `SampleStream` permutes, infills and packs it, `BatchPlan` hands it to a data-parallel rank.
Everything after `.bin/.idx` is a pure function of (seed, position): no state to save, nothing to restore.
"""
