"""Source material to documents whose `parts` place the special tokens of a family.

StarCoder (arXiv 2305.06161): files with metadata, issues, commits, notebooks. StarCoder 2 (arXiv 2402.19173,
section 5): whole repositories, issues, notebooks. All functions are pure: what is random is drawn by
(seed, the document's id). Where a row can be unfit, the answer is a `Document` or a `str`: the reason why there is
none, to be counted; an exception is for a mistake in the configuration.
"""
