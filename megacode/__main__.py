"""`python -m megacode` is the `megacode` command."""

from megacode.cli import main

if __name__ == "__main__":  # processes that `verify` forks import this module too
    main()
