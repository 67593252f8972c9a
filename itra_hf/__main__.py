"""`python -m itra_hf` is `itra-hf`."""

from .cli import main

if __name__ == "__main__":
    main()
