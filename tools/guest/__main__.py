"""`python -m tools.guest`: the command line of the guest tool."""

from tools.guest.cli import main

if __name__ == "__main__":
    main()
