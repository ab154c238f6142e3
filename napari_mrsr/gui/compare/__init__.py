"""The Compare dock: images of a session side by side, over each other, and as differences, in one shared view."""
