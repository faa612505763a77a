"""`python -m megacode` is the `megacode` command."""

from megacode.cli import main

main()
