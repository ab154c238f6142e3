"""napari on top of the library: readers, writers, sample data, docks."""
