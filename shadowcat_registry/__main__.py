"""`python -m shadowcat_registry`: the same as the command `shadowcat-registry`."""

from .cli import main

if __name__ == "__main__":
    main()
