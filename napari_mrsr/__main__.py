"""``python -m napari_mrsr``: the command line."""

from napari_mrsr.cli import main

if __name__ == "__main__":
    main()
