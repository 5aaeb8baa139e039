"""`python -m equimu`."""

from equimu._cli import main

if __name__ == "__main__":
    main()
