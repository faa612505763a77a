"""One optimizer step on one page, the loop around it, signals, validation and what is written down."""
