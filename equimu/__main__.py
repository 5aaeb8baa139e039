"""`python -m equimu`."""

from equimu.cli import main

if __name__ == "__main__":
    main()
