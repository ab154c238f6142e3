"""Model cards and weights: what can be run, what it was trained on, how good it is."""

from napari_mrsr.zoo.cards import Card, Domain, Quality, TrainingData
from napari_mrsr.zoo.imports import import_checkpoint
from napari_mrsr.zoo.models import WEIGHTS, get_card, list_models, load_network, user_weights_folder
from napari_mrsr.zoo.official import load_official
from napari_mrsr.zoo.page import card_page, score_table, write_card
from napari_mrsr.zoo.weights import read_weights, save_weights, sha256_of

__all__ = [
    "WEIGHTS",
    "Card",
    "Domain",
    "Quality",
    "TrainingData",
    "card_page",
    "get_card",
    "import_checkpoint",
    "list_models",
    "load_network",
    "load_official",
    "read_weights",
    "save_weights",
    "score_table",
    "sha256_of",
    "user_weights_folder",
    "write_card",
]
