"""The demonstration in a window: ``python -m napari_mrsr.gui.demo [MODEL]``."""

from __future__ import annotations

import sys


def main(model: str = "cftn-x2") -> None:
    """Open napari with the T1 workspace, and run the model on it."""
    import napari

    from napari_mrsr.gui.super_resolve_dock import SuperResolveDock

    viewer = napari.Viewer(title="napari-mrsr")
    viewer.open_sample("napari-mrsr", "arc2017-t1-pair")
    _, dock = viewer.window.add_plugin_dock_widget("napari-mrsr", "Super-resolve")
    assert isinstance(dock, SuperResolveDock)
    dock.models.setCurrentText(model)
    dock.run_button.click()
    napari.run()


if __name__ == "__main__":
    main(*sys.argv[1:2])
