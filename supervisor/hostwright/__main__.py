"""`python -m hostwright` is the command `hostwright`."""

from hostwright.cli import main

main()
