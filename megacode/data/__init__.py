"""From files of code to micro-batches, in the order of the rooms inside:

    prepare     folders and tables -> documents: filtered, deduplicated, redacted, split     (formats, languages)
    tokenizers  text <-> tokens
    shards      documents -> .bin/.idx with a table and checksums; removal
    infill      fill-in-the-middle on whole documents
    stream      number n -> source, order, packing -> sample n
    batches     samples -> the micro-batches of a data-parallel rank, made ahead by `prefetch`
    inspect     audits, names and counts for people

Everything after the shards is a pure function of (seed, number): no state to save, nothing to restore.
"""
