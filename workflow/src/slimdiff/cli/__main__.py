"""`python -m slimdiff.cli` is the `slimdiff` command."""

from slimdiff.cli.app import main

main()
