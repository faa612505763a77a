"""Sharded building blocks of a decoder. Shape letters, used in every docstring of the project:

    b  micro-batch, sequences        n  query heads         v  vocabulary, tokens
    s  sequence, tokens              k  key-value heads     p  learned positions
    h  hidden width                  d  width of a head     f  width inside the MLP

`[b, s/tp, h]` says what is cut: here the sequence, over the tensor-parallel ranks. Tensor parallelism always works with
sequence parallelism (Korthikanti et al. 2022, section 4.2.2): between blocks activations are [b, s/tp, h].
"""
