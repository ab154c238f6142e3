"""Forms made from the pydantic models that describe a job, so that dock, command line and record never drift apart."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from magicgui.widgets import CheckBox, ComboBox, Container, FloatSpinBox, SpinBox, Widget
from pydantic import BaseModel

UNSET = "default"
"""What an optional field shows while it is None."""


def model_form(model: type[BaseModel], fields: dict[str, dict[str, Any]]) -> Container:
    """Container with one widget per field of a pydantic model.

    Parameters
    ----------
    model : pydantic model class
        Gives types, defaults and, where a field is a Literal, choices.
    fields : dict
        Field name to widget options: ``label``, ``tooltip``, ``choices``, ``min``, ``max``, ``step``. An optional number without choices shows
        its smallest value as "default", which stands for None.

    Returns
    -------
    Container
        :func:`form_values` reads it.
    """
    return Container(widgets=[_widget(model, name, dict(options)) for name, options in fields.items()], labels=True)


def form_values(form: Container) -> dict[str, Any]:
    """Values of a form, ready for the model; optional fields left alone are None."""
    return {widget.name: None if _is_unset(widget) else widget.value for widget in form}


def _is_unset(widget: Any) -> bool:
    if isinstance(widget, (SpinBox, FloatSpinBox)):
        return bool(widget.native.specialValueText()) and widget.value == widget.min
    return bool(widget.value == UNSET)


def _widget(model: type[BaseModel], name: str, options: dict[str, Any]) -> Widget:
    info = model.model_fields[name]
    kinds = _unpack(info.annotation)
    optional = type(None) in kinds
    literal = next((k for k in kinds if get_origin(k) is Literal), None)
    common = {"name": name, "label": options.pop("label", name), "tooltip": options.pop("tooltip", "")}
    choices = options.pop("choices", None) or (list(get_args(literal)) if literal else None)
    spin: Any = SpinBox if int in kinds else FloatSpinBox if float in kinds else None
    if choices is None and optional and spin is not None:
        box: Widget = spin(value=options["min"] if info.default is None else info.default, **options, **common)
        box.native.setSpecialValueText(UNSET)
        return box
    if choices is not None or optional:
        listed = ([UNSET] if optional else []) + list(choices or [])
        return ComboBox(choices=listed, value=UNSET if info.default is None else info.default, **common)
    made: Widget = (CheckBox if bool in kinds else spin)(value=info.default, **options, **common)
    return made


def _unpack(annotation: Any) -> list[Any]:
    """Alternatives of an annotation without Annotated wrappers."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in _unpack(part)]
    if hasattr(annotation, "__metadata__"):
        return _unpack(get_args(annotation)[0])
    return [annotation]
