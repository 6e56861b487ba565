"""`python -m unfooled`."""

from unfooled.cli.app import main

if __name__ == "__main__":
    main()
