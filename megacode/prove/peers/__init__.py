"""Other engines, to be measured beside ours: each file is a program for the environment that has its package.

They import nothing of megacode. `worker.py` is what they, and our own ranks, have in common.
"""
