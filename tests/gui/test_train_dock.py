"""The Train dock: forms, data, runs in processes of their own, and what is seen of them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog
from tiny_training import tiny_recipe, write_people

from napari_mrsr.errors import InputError
from napari_mrsr.gui.layers import volume_to_layer
from napari_mrsr.gui.session import Role
from napari_mrsr.gui.train_data import HELD_OUT, Source, contrasts_in
from napari_mrsr.gui.train_dock import TrainDock
from napari_mrsr.gui.train_form import OTHER, SCRATCH
from napari_mrsr.gui.train_presets import preset
from napari_mrsr.gui.train_yaml import RecipeEditor
from napari_mrsr.training.recipe import load_recipe
from napari_mrsr.training.runs import ALIVE, RunFolder, State, Wish, list_runs, new_run
from napari_mrsr.volume import Source as Source_
from napari_mrsr.zoo import list_models

PATIENCE = 120_000


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    write_people(root)
    return write_people(root, contrast="T2w")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Runs and models of the test's own; what was started is stopped."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path / "home"
    for run in list_runs():
        if run.state() in ALIVE:
            os.kill(process_of(run), signal.SIGKILL)


def process_of(run):
    return json.loads((run.path / "process.json").read_text())["pid"]


@pytest.fixture
def dock(viewer, said):
    widget = TrainDock(viewer)
    viewer.window.add_dock_widget(widget, name="Train")
    return widget


@pytest.fixture
def ready(qtbot, dock, people, tmp_path):
    """The dock with a training of seconds chosen."""
    path = tmp_path / "tiny_x2.yaml"
    new = new_run(tiny_recipe(people, steps=100_000, validate_every=20))
    path.write_text((new.path / "recipe.yaml").read_text())
    new.delete()
    dock.form._presets.append(preset(path))
    dock.form.choose(lambda p: p.path == path)
    dock.form.name.setText("tiny")
    choose_folder(qtbot, dock, people / "train")
    return dock


def choose_folder(qtbot, dock, folder):
    dock.data.folder.setText(str(folder))
    with qtbot.waitSignal(dock.data.contrast.currentTextChanged, timeout=60_000):
        dock.data.look_into()
    qtbot.waitUntil(lambda: "Found" in dock.data.about.text(), timeout=60_000)


def begin(qtbot, dock):
    qtbot.mouseClick(dock.start_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: dock.watch.state is State.RUNNING, timeout=60_000)
    return dock.watch.run


# --- the form -------------------------------------------------------------------------------------------------------------------------


def test_every_shipped_recipe_can_be_chosen_and_is_shown_as_it_is(dock, tmp_path):
    for entry in list(dock.form._presets):
        dock.form.choose(lambda p, entry=entry: p.path == entry.path)
        shown, kept = dock.form.recipe(), entry.recipe
        same = {"steps", "validate_every", "patches", "optimiser", "loss", "degradation", "network", "stages"}
        assert shown.model_dump(include=same) == kept.model_dump(include=same), entry.path.name
        offered = [dock.form.start.itemText(i) for i in range(dock.form.start.count())]
        if kept.start in offered or kept.start is None:
            assert shown.start == kept.start
        else:
            assert kept.start in dock.form.missing.text()


def test_numbers_of_the_form_go_into_the_recipe(dock):
    form = dock.form
    form.choose(lambda p: p.path.stem == "cftn_x2_compact")
    form.steps.setValue(77)
    form.every.setValue(100)
    form.rate.setValue(0.00025)
    form.batch.setValue(3)
    form.patch.setValue(20)
    form.name.setText("mine")
    recipe = form.recipe()
    assert (recipe.steps, recipe.validate_every, recipe.optimiser.learning_rate) == (77, 77, 0.00025)
    assert (recipe.patches.batch, recipe.patches.size, recipe.name, recipe.start) == (3, 20, "mine", None)


def test_a_starting_model_brings_its_network_along(dock):
    form = dock.form
    form.choose(lambda p: p.path.stem == "cftn_x2_paper")
    form.start.setCurrentText("cftn-x2")
    card = next(c for c in list_models() if c.name == "cftn-x2")
    recipe = form.recipe()
    assert (recipe.start, recipe.network.options, recipe.degradation.protocol) == ("cftn-x2", card.options, card.protocol)
    form.start.setCurrentText(SCRATCH)
    assert form.recipe().network.options == load_recipe(form._offered[form.preset.currentIndex()].path).network.options


@pytest.mark.parametrize(("name", "words"), [("cftn-x2", "already"), ("../x", "cannot name"), ("", "cannot name"), ("Mine", "cannot name")])
def test_names_that_cannot_be_are_refused(ready, said, name, words):
    ready.form.name.setText(name)
    ready.start_button.click()
    assert words in said[-1]
    assert list_runs() == []


def test_a_recipe_is_edited_as_text(qtbot, dock, monkeypatch, tmp_path):
    editor = RecipeEditor(dock.form.recipe(), dock)
    qtbot.addWidget(editor)
    good = editor.editor.toPlainText()
    editor.editor.setPlainText(good + "colour: red\n")
    editor.accept()
    assert editor.result() != QDialog.DialogCode.Accepted
    assert "colour" in editor.problem.text()
    editor.editor.setPlainText(good.replace("name: cftn\n", "name: dcamsr\n"))
    editor.accept()
    assert "is of the network cftn" in editor.problem.text()
    editor.editor.setPlainText(good.replace("seed: 0", "seed: 7"))
    monkeypatch.setattr("napari_mrsr.gui.train_yaml.QFileDialog.getSaveFileName", lambda *_: (str(tmp_path / "mine.yaml"), ""))
    editor.save()
    assert load_recipe(tmp_path / "mine.yaml").seed == 7
    editor.accept()
    assert editor.recipe.seed == 7


def test_a_users_file_becomes_a_preset_and_a_wrong_one_is_said(dock, said, monkeypatch, tmp_path, people):
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\n")
    monkeypatch.setattr("napari_mrsr.gui.train_form.QFileDialog.getOpenFileName", lambda *_: (str(path), ""))
    dock.form.preset.activated.emit(dock.form.preset.findText(OTHER))
    assert "wrong.yaml" in said[-1]
    new = new_run(tiny_recipe(people))
    path.write_text((new.path / "recipe.yaml").read_text())
    dock.form.preset.activated.emit(dock.form.preset.findText(OTHER))
    assert dock.form.network.currentText() == "FD-ViT"
    assert dock.form.preset.currentText() == "x2, wrong.yaml"
    assert dock.form.steps.value() == 12


# --- the data -------------------------------------------------------------------------------------------------------------------------


def test_a_folder_tells_its_contrasts_and_the_validation_beside_it(qtbot, dock, people):
    choose_folder(qtbot, dock, people / "train")
    data = dock.data
    assert "2 T1w, 2 T2w" in data.about.text()
    assert (data.contrast.currentText(), data.validation.currentText()) == ("T1w", "val")
    data.contrast.setCurrentText("T2w")
    part = data.part(dock.form.base.data, Path("unused"))
    assert (part.root, part.train, part.validation) == (str(people), ("train/**/*_T2w.*",), ("val/**/*_T2w.*",))
    assert (part.contrasts, part.references) == (("T2w",), ())
    data.validation.setCurrentText(HELD_OUT)
    data.held_out.setValue(50)
    part = data.part(dock.form.base.data, Path("unused"))
    assert (part.root, part.train, part.validation, part.held_out) == (str(people / "train"), ("**/*_T2w.*",), (), 0.5)


def test_a_network_with_a_reference_asks_for_its_contrast(qtbot, viewer, dock, people):
    dock.form.choose(lambda p: p.path.stem == "cohft_x2_compact")
    choose_folder(qtbot, dock, people / "train")
    assert not dock.data.guide.isHidden()
    dock.data.contrast.setCurrentText("T2w")
    dock.data.guide.setCurrentText("T1w")
    assert dock.data.part(dock.form.base.data, Path("unused")).references == ("T1w",)
    dock.form.choose(lambda p: p.path.stem == "cftn_x2_compact")
    assert dock.data.guide.isHidden()
    assert dock.data.part(dock.form.base.data, Path("unused")).references == ()


def test_stages_learn_from_the_chosen_volumes(qtbot, dock, people, tmp_path):
    dock.form.choose(lambda p: p.path.stem == "fdvit_x2_compact")
    choose_folder(qtbot, dock, people / "train")
    vit, second = dock.data.stages(dock.form.base.stages)
    assert (vit.pretext, vit.train, vit.validation) == ("class", ("train",), ("val",))
    assert (second.train, second.validation) == ((), ())
    dock.data.validation.setCurrentText(HELD_OUT)
    assert dock.data.stages(dock.form.base.stages)[0].train == (".",)
    only = write_people(tmp_path / "only")
    choose_folder(qtbot, dock, only / "train")
    vit, _ = dock.data.stages(dock.form.base.stages)
    assert (vit.pretext, vit.train) == ("masked", ())


def test_folders_without_images_are_said(tmp_path, people):
    for folder, words in (("", "not a folder"), (str(tmp_path / "no"), "not a folder"), (str(tmp_path), "No image files")):
        with pytest.raises(InputError, match=words):
            contrasts_in(folder)
    assert contrasts_in(str(people)) == {"T1w": 3, "T2w": 3}


def test_copies_of_layers_tell_person_and_contrast(viewer, dock, make_volume, tmp_path):
    data, base = dock.data, dock.form.base.data
    for seed, path in enumerate(("d/sub-ann_T1w.nii.gz", "d/sub-ann_ses-2_FLAIR.nii", "d/p07/t2.nii")):
        head = make_volume(seed=seed, name=f"layer {seed}")
        array, meta, _ = volume_to_layer(head.replace(source=Source_(path=str(tmp_path / path))))
        viewer.add_image(array, **meta)
    data.source.setCurrentText(str(Source.VOLUME))
    data.volume.setCurrentText("layer 1")
    assert [name for name, _ in data.volumes()] == ["sub-ann_FLAIR.nii"]
    part = data.part(base, tmp_path)
    assert (part.train, part.contrasts) == (("sub-ann_FLAIR.nii",), ("FLAIR",))
    data.source.setCurrentText(str(Source.LAYERS))
    data.layers.tick([id(layer) for layer in viewer.layers])
    assert [name for name, _ in data.volumes()] == ["sub-ann_01_T1w.nii", "sub-ann_02_FLAIR.nii", "sub-p07_03_t2.nii"]
    assert data.part(base, tmp_path).contrasts == ("FLAIR", "T1w", "t2")
    data.layers.tick([id(layer) for layer in list(viewer.layers)[:2]])
    with pytest.raises(InputError, match=r"two people at least.*These are all of ann"):
        data.volumes()


def test_layers_are_copied_and_one_alone_is_divided(viewer, dock, make_volume, tmp_path):
    data, base = dock.data, dock.form.base.data
    data.source.setCurrentText(str(Source.VOLUME))
    with pytest.raises(InputError, match="Open a volume"):
        data.part(base, tmp_path)
    for seed in range(3):
        array, meta, _ = volume_to_layer(make_volume(seed=seed, name=f"head {seed}"))
        viewer.add_image(array, **meta)
    dock.session.assign(Role.GROUND_TRUTH, viewer.layers[1])
    data.volume.setCurrentText("head 1")
    assert [name for name, _ in data.volumes()] == ["sub-head1_volume.nii"]
    part = data.part(base, tmp_path)
    assert (part.root, part.train, part.split) == (str(tmp_path), ("sub-head1_volume.nii",), "parts")
    data.source.setCurrentText(str(Source.LAYERS))
    with pytest.raises(InputError, match="two people at least"):
        data.volumes()
    data.layers.tick([id(viewer.layers[0]), id(viewer.layers[2])])
    assert [(name, v.name) for name, v in data.volumes()] == [("sub-head0_01_volume.nii", "head 0"), ("sub-head2_02_volume.nii", "head 2")]
    assert data.part(base, tmp_path).split == "people"
    viewer.layers.pop(0)
    with pytest.raises(InputError, match="two people at least"):
        data.volumes()


# --- the check ------------------------------------------------------------------------------------------------------------------------


def test_the_check_tells_what_there_is_and_what_is_wrong(qtbot, ready):
    check = ready.check
    qtbot.mouseClick(check.button, Qt.MouseButton.LeftButton)
    assert not check.button.isEnabled()
    qtbot.waitUntil(check.button.isEnabled, timeout=PATIENCE)
    assert "Ready to start" in check.findings.text()
    assert "2 volumes of 2 people" in check.findings.text()
    assert ready.device.findText("cpu") >= 0
    ready.form.patch.setValue(600)
    assert check.findings.text() == ""
    qtbot.mouseClick(check.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(check.button.isEnabled, timeout=PATIENCE)
    assert "Ready to start" not in check.findings.text()
    assert "patch" in check.findings.text()
    assert list_runs() == []
    assert not list(Path(os.environ["XDG_DATA_HOME"]).rglob(".draft*"))


def test_a_check_that_dies_is_said(qtbot, ready, monkeypatch):
    monkeypatch.setattr("napari_mrsr.gui.train_check.sys.executable", "/no/such/python")
    ready.check.button.click()
    qtbot.waitUntil(ready.check.button.isEnabled, timeout=60_000)
    assert "could not be started" in ready.check.findings.text()


# --- runs -----------------------------------------------------------------------------------------------------------------------------


def test_a_run_is_watched_stopped_and_its_model_used(qtbot, viewer, ready, said, fake):
    fake()
    dock, heard = ready, []
    dock.session.models_changed.connect(lambda: heard.append([c.name for c in list_models()]))
    begin(qtbot, dock)
    assert dock.pages.currentIndex() == 1
    qtbot.waitUntil(lambda: len(dock.preview.layers) == 4 and len(dock.watch.history.scores) >= 2, timeout=PATIENCE)
    # Curves, and lines of the methods without weights.
    assert set(dock.view.scores.lines) == {"cubic", "back-projection"}
    assert dock.view.scores.lines["cubic"].value() == pytest.approx(dock.watch.history.started["classic"]["cubic"])
    assert set(dock.view.losses._lines) == {"l1"}
    dock.view.log.setChecked(True)
    # The slice, with a slider over the validations.
    layers = dock.preview.layers
    assert list(layers) == ["truth", "cubic", "error", "prediction"]
    qtbot.waitUntil(lambda: len(layers["prediction"].data) >= 3, timeout=PATIENCE)
    stack, error, truth = (np.asarray(layers[name].data) for name in ("prediction", "error", "truth"))
    np.testing.assert_allclose(error, stack[: len(error)] - truth)
    low, high = layers["error"].contrast_limits
    assert low == -high
    np.testing.assert_allclose(layers["prediction"].data_to_world((2, 3, 4, 0))[1:], layers["truth"].data_to_world((3, 4, 0)))
    assert dock.view.caption.text().startswith("sub-cy_T1w, validation ")
    assert viewer.dims.order[-3:] == (3, 2, 1)
    assert dock.session.axis == 2
    assert not dock.session.images()
    qtbot.mouseClick(dock.view.stop, Qt.MouseButton.LeftButton)
    assert "Stopping" in dock.view.status.text() or dock.watch.state is State.STOPPED
    qtbot.waitUntil(lambda: dock.watch.state is State.STOPPED, timeout=PATIENCE)
    assert "the model is tiny" in dock.view.status.text()
    assert "tiny" in heard[-1]
    dock.view.use.click()
    other = viewer.window._wrapped_dock_widgets["Super-resolve (napari-mrsr)"].inner_widget()
    assert other.models.currentText() == "tiny"
    assert said == []
    dock.view.slice.setChecked(False)
    assert dock.preview.layers == {}


def test_killed_is_told_and_resumed(qtbot, ready):
    run = begin(qtbot, ready)
    qtbot.waitUntil(lambda: bool(ready.watch.history.scores), timeout=PATIENCE)
    os.kill(process_of(run), signal.SIGKILL)
    qtbot.waitUntil(lambda: ready.watch.state is State.LOST, timeout=60_000)
    assert "process is gone" in ready.view.problem.text()
    first = ready.watch.history.scores[0]
    qtbot.mouseClick(ready.view.resume, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: ready.watch.state is State.RUNNING and len(ready.watch.history.scores) >= 2, timeout=PATIENCE)
    assert ready.watch.history.scores[0] == first
    assert ready.view.problem.text() == ""


def test_a_run_goes_on_without_the_dock_and_is_found_again(qtbot, viewer, ready, people):
    run = begin(qtbot, ready)
    qtbot.waitUntil(lambda: len(ready.preview.layers) == 4, timeout=PATIENCE)
    with qtbot.waitSignal(ready.destroyed, timeout=60_000):
        viewer.window.remove_dock_widget(ready)
    assert run.state() is State.RUNNING
    again = TrainDock(viewer)
    viewer.window.add_dock_widget(again, name="Train")
    assert (again.watch.run, again.pages.currentIndex()) == (run, 1)
    qtbot.waitUntil(lambda: len(again.preview.layers) == 4, timeout=PATIENCE)
    assert len(viewer.layers) == 4
    again.view.pause.click()
    qtbot.waitUntil(lambda: again.watch.history.resting, timeout=PATIENCE)
    assert "Paused" in again.view.status.text()
    assert not again.view.resume.isHidden()
    again.view.resume.click()
    qtbot.waitUntil(lambda: again.watch.state is State.RUNNING and not again.watch.history.resting, timeout=60_000)


def test_two_trainings_of_one_name_are_refused(ready, said, people, monkeypatch):
    other = new_run(tiny_recipe(people))
    other.tell("launched")
    other.claim(os.getpid())
    ready.start_button.click()
    assert "under way" in said[-1]
    assert list_runs() == [other]
    other.tell("stopped")


def test_a_folder_without_images_starts_nothing(qtbot, ready, said, tmp_path):
    (tmp_path / "empty").mkdir()
    ready.data.folder.setText(str(tmp_path / "empty"))
    ready.data.look_into()
    qtbot.waitUntil(lambda: "No image files" in ready.data.about.text(), timeout=60_000)
    ready.start_button.click()
    assert said[-1].startswith("No image files lie in")
    assert list_runs() == []


def test_names_of_loss_terms_follow_the_theme(viewer, dock):
    plot = dock.view.losses
    plot.draw({"mse": ([1, 2], [0.2, 0.1])})
    colours = set()
    for theme in ("dark", "light"):
        viewer.theme = theme
        ((_, label),) = plot._legend.items
        colours.add(label.item.toHtml().split("color:")[1][:7])
    assert len(colours) == 2


def test_a_run_that_cannot_begin_says_why(qtbot, ready, people):
    ready.data.part = lambda base, _: base.model_copy(update={"root": str(people), "train": ("nothing",)})
    begin(qtbot, ready)
    qtbot.waitUntil(lambda: ready.watch.state is State.FAILED, timeout=PATIENCE)
    assert "No image files found" in ready.view.problem.text()


def test_deleting_asks_first(qtbot, dock, people, monkeypatch):
    runs = [new_run(tiny_recipe(people)) for _ in range(2)]
    for run in runs:
        run.tell("stopped", message="Stopped.")
    dock.list.refresh(runs[0])
    assert dock.watch.run == runs[0]
    answers = iter((False, True))
    monkeypatch.setattr(dock, "_confirm", lambda _: next(answers))
    dock.view.delete.click()
    assert runs[0] in list_runs()
    dock.view.delete.click()
    assert list_runs() == [runs[1]]
    assert dock.watch.run == runs[1]


def test_layers_are_kept_with_the_run(qtbot, ready, viewer, people, make_volume, monkeypatch):
    monkeypatch.setattr(RunFolder, "start", lambda self: self.tell("launched"))
    for seed in range(2):
        array, meta, _ = volume_to_layer(make_volume((24, 26, 12), seed=seed, name=f"head {seed}"))
        viewer.add_image(array, **meta)
    ready.data.source.setCurrentText(str(Source.LAYERS))
    ready.data.layers.tick([id(layer) for layer in viewer.layers])
    ready.start_button.click()
    qtbot.waitUntil(lambda: ready.watch.run is not None, timeout=60_000)
    run = ready.watch.run
    assert sorted(p.name for p in run.data.iterdir()) == ["sub-head0_01_volume.nii", "sub-head1_02_volume.nii"]
    assert run.recipe().data.root == str(run.data)


def test_wishes_reach_the_run(qtbot, dock, people):
    run = new_run(tiny_recipe(people))
    run.tell("launched")
    run.claim(os.getpid())
    dock.list.refresh(run)
    dock.view.pause.click()
    assert run.wish() is Wish.PAUSE
    dock.view.resume.click()
    assert run.wish() is Wish.RUN
    dock.view.stop.click()
    assert run.wish() is Wish.STOP
    run.tell("stopped")
