"""The stages of a preparation as plain functions `stage(plan, rank)`: one task reads files and writes its own.

Every task writes its statistics last, so a task with statistics is complete; running it again writes the same bytes.
"""
