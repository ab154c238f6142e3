"""Print the OpenGL vendor, renderer and version that a window would get: ``python -m napari_mrsr.gui.opengl``."""

from __future__ import annotations

import sys


def main() -> None:
    """Make an invisible context and ask it."""
    from qtpy.QtWidgets import QApplication
    from vispy import app, gloo

    app.use_app("pyqt5" if "PyQt5" in sys.modules else None)
    application = QApplication.instance() or QApplication([])
    canvas = app.Canvas(show=False)
    canvas.set_current()
    answers = [str(gloo.gl.glGetParameter(key)) for key in (gloo.gl.GL_VENDOR, gloo.gl.GL_RENDERER, gloo.gl.GL_VERSION)]
    sys.stdout.write(", ".join(answers) + "\n")
    canvas.close()
    del application


if __name__ == "__main__":
    main()
