"""`python -m pagecheck`."""

from pagecheck.cli import main

main()
