"""Do Matryoshka sparse autoencoders recover the true features of hierarchical data?

The core: `features` (trees and their states), `sae` (one class for every variant), `training` (a compiled trainer, and
autograd for any loss), `theory` (closed forms) and `metrics` (what was learned, against the truth). For SAEs of one's
own: `exchange` (files of other libraries), `diagnose` (do its latents mix?), `remedy` (training that does not) and
`streaming` (sweeps of any length, on disk). The report stands on it: `figures`, `parameters`, `claims`, `notebook`,
`original` (the post's recipe), `chapters`. Imports go downwards only.

    import matryoshka_mixing as mm

    tree = mm.family(0.3, 0.4)
    config = mm.SAEConfig(20, widths=(1, 3))
    setting = mm.Setting(config, tree.states(), mm.orthonormal_dictionaries(3, 20, range(64)))
    run = mm.train(setting, mm.random_start(config, range(64)))
"""

from matryoshka_mixing import exchange, theory
from matryoshka_mixing.diagnose import Diagnosis, diagnose
from matryoshka_mixing.features import (
    FeatureTree,
    States,
    family,
    independent,
    orthonormal_dictionaries,
    orthonormal_dictionary,
    twenty_feature_tree,
    without_hierarchy,
)
from matryoshka_mixing.metrics import Edges, Mixing, Reading, read
from matryoshka_mixing.remedy import full_decoder, refit, remedied, settle
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, descend, train

__version__ = "0.1.0"
__all__ = [
    "SAE",
    "Diagnosis",
    "Edges",
    "FeatureTree",
    "Mixing",
    "Reading",
    "SAEConfig",
    "Setting",
    "States",
    "TrainConfig",
    "Trained",
    "descend",
    "diagnose",
    "exchange",
    "family",
    "full_decoder",
    "independent",
    "orthonormal_dictionaries",
    "orthonormal_dictionary",
    "random_start",
    "read",
    "refit",
    "remedied",
    "settle",
    "start_near",
    "theory",
    "train",
    "twenty_feature_tree",
    "without_hierarchy",
]
