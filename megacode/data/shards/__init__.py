"""Tokenized documents on the disk: written by `tokenize`, opened at once, checked, and taken out of again."""
