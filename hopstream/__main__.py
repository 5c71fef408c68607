"""`python -m hopstream` is `hopstream`."""

from hopstream.cli import main

main()
