"""`python -m nec`: the same as the command `nec`."""

from nec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
