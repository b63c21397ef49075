"""The scripts for those who import the package run as they stand, in a few seconds, without the tests' shape checks."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_every_example_runs_and_leaves_what_it_says(tmp_path):
    for name, says in [
        ("own_tree.py", "grandchild"),
        ("sixty_four_seeds.py", "leans 0.3"),
        ("read_and_plot.py", "drawn into one_sae.png"),
    ]:
        done = run(name, tmp_path)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"one_sae.safetensors", "one_sae.png"}


def test_there_are_three_short_ones():
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert len(scripts) == 3
    assert all(len(path.read_text().splitlines()) <= 25 for path in scripts)


WRONG = {
    "mm.FeatureTree(1.0, mm.FeatureTree(0.3))": "they must be a sequence of FeatureTree. Write (child,)",
    "mm.FeatureTree(1.0, (0.3,), id='a')": "feature 'a' has children (0.3,); they must be a sequence of FeatureTree",
    "mm.FeatureTree(1.0, 0.3)": "a feature has children 0.3; they must be",
    "mm.FeatureTree(1.0, None)": "a feature has children None; they must be",
    "mm.FeatureTree(1.0, [{'active_prob': 0.3}])": "they must be a sequence of FeatureTree",
    "mm.FeatureTree(0.3, (), mm.FeatureTree(0.3))": "mutually_exclusive_children of a feature is FeatureTree(",
    "mm.FeatureTree((mm.FeatureTree(0.3),))": "active_prob of a feature is (FeatureTree(",
    "mm.FeatureTree(1.0, is_read_out='no')": "is_read_out of a feature is 'no'; it must be True or False",
    "mm.family(np.float32(0.25), np.float32(0.5), np.int64(2)).firing_probabilities().tolist()": "[0.25, 0.125, 0.125]",
    "mm.orthonormal_dictionaries(3, 20, 64)": "seeds are 64; give the number of each, such as range(64)",
    "mm.random_start(mm.SAEConfig(3, (2,)), 64)": "seeds are 64; give the number of each, such as range(64)",
    "mm.start_near(D, 64)": "seeds are 64; give the number of each, such as range(64)",
    "mm.start_near(D, [0], order=2)": "the entries of order are 2; give the number of each latent's direction",
    "mm.start_near(D, [0], noise='much')": "noise is 'much'; it must be a number",
    "mm.start_near(D, [0], 0, order=torch.tensor([2, 0])).W_dec.equal(D[None, [2, 0]])": "True",
    "mm.start_near(D.numpy(), [0], 0, order=np.array([2, 0])).W_dec.equal(D[None, [2, 0]])": "True",
    "mm.SAEConfig(3, (1, 3), weights=np.array([0.5, 1]))": "weights=(0.5, 1.0)",
    "mm.SAEConfig(3, (1, 3), decoder_weights=torch.tensor([0.5, 1]))": "decoder_weights=(0.5, 1.0)",
    "mm.SAEConfig(3, (1, 3), weights=None)": "weights=(1.0, 1.0)",
    "mm.SAEConfig(3, (1, 3), weights=0.5)": "weights are 0.5; give one for each prefix",
    "mm.SAEConfig(3, (1, 3), decoder_weights=0.5)": "decoder_weights are 0.5; give one for each prefix",
    "mm.SAEConfig(3, (1, 3), weights='12')": "weights is '1'; it must be a number",
    "mm.SAEConfig(3, (2,), encoder_bias='no')": "encoder_bias is 'no'; it must be True or False",
    "mm.SAEConfig(3, (2,), decoder_bias=0)": "decoder_bias is 0; it must be True or False",
    "mm.SAEConfig(3, (2,), decoder_bias=np.bool_(False))": "decoder_bias=False",
    "mm.SAE(**{name: one.numpy() for name, one in sae.parameters.items()}).encode(D).equal(sae.encode(D))": "True",
    "mm.SAE(**{name: one.tolist() for name, one in sae.parameters.items()}).encode(D).equal(sae.encode(D))": "True",
    "mm.SAE(**sae.parameters | {'b_enc': None})": "b_enc is None; it must be a tensor or array of numbers",
    "mm.SAE(**sae.parameters | {'b_enc': ['a'] * 3})": "b_enc is ['a', 'a', 'a']; it must be a tensor or array",
    "mm.SAE(**sae.map(torch.Tensor.long).parameters)": "they must have one floating type",
    "sae.decode(sae.encode(D), 1.5)": "width holds 1.5; it must be a whole number",
    "mm.read(sae, states, D.numpy(), tree).decoder.equal(mm.read(sae, states, D, [None, 0, 0]).decoder)": "True",
    "mm.read('sae', states, D, tree)": "sae is of type str; give an SAE, of a run `run.sae`",
    "mm.read(sae, tree, D, tree)": "states are of type FeatureTree; give States, such as tree.states()",
    "mm.read(sae, tree.sample(5, 0), D, tree)": "Samples of a tree are States(tree.sample(n, 0), torch.full(",
    "mm.read(sae, mm.States(tree.sample(5, 0), torch.full((5,), 1 / 5)), D, tree).acts.shape": "torch.Size([5, 3])",
    "mm.read(sae, states, D, [None, 0.0, 0.0])": "parents holds 0.0; it must be a whole number",
    "mm.read(sae, states, D, None)": "parents are None; give one entry a feature, such as tree.parents()",
    "mm.read(sae, states, None, tree)": "dictionary is None; give the direction of each feature",
    "mm.SAE(**sae.parameters, config=[sae.config]).config == sae.config": "True",
    "mm.SAE(**sae.parameters, config=())": "config is (); give one SAEConfig, or a tuple of such",
    "mm.SAE(**sae.parameters, config='relu')": "config is 'relu'; give one SAEConfig",
    "mm.SAE(**sae.parameters, config=3)": "config are 3; give one SAEConfig, or a tuple of such",
    "sae.loss(D.long(), torch.ones(3) / 3, mm.SAEConfig(20, (1, 3), (0.5, 1))) == sae.loss("
    "D.long().double(), torch.ones(3) / 3, mm.SAEConfig(20, (1, 3), (0.5, 1)))": "True",
    "mm.family(0.3, 0.4, child_magnitude=1.5).states().inputs(torch.eye(3).long()).max()": "1.5",
    "sae.map(torch.Tensor.float).encode(D).dtype": "torch.float32",
    "sae.map(torch.Tensor.float).loss(D, torch.ones(3) / 3).shape": "torch.Size([])",
    "mm.Setting(mm.SAEConfig(20, (1, 2, 3)), states, D, drawn=1.5)": "drawn holds 1.5; it must be a whole number",
    "mm.Setting(mm.SAEConfig(20, (1, 2, 3)), states, D, drawn='1')": "drawn holds '1'; it must be a whole number",
    "mm.Setting(mm.SAEConfig(20, (1, 2, 3)), states, D, drawn=3)": "it must be from 0 to the 2 shorter prefixes with a",
    "mm.Setting(mm.SAEConfig(20, (1, 3)), states, D, held=None)": "held is None; give an index into each parameter",
    "mm.FeatureTree(0.3, id=3)": "a feature has id 3; it must be text, or None",
    "mm.orthonormal_dictionary(3, 20, -1)": "seeds hold -1; a seed must be at least 0",
    "mm.orthonormal_dictionary(3, 20, 0.5)": "seeds holds 0.5; it must be a whole number",
    "mm.theory.inclusion_probabilities([], 0)": "at least as many items as draws, and at least one",
    'mm.SAEConfig(3, (2,), activation="gelu")': "activation is 'gelu'; it must be one of",
    'TrainConfig(optimiser="sgd")': "optimiser is 'sgd'; it must be 'adam' or 'gd'",
    "mm.SAEConfig(3, (1.5, 2))": "widths holds 1.5; it must be a whole number",
    "mm.SAEConfig(3, 2)": "widths are 2; give the latents of each prefix",
    'mm.SAEConfig("3", (2,))': "d_in holds '3'; it must be a whole number",
    "mm.States([[1.0, 0.0]], [0.5])": "probs sum to 0.5",
    'mm.SAEConfig(3, (1, 3), activation="topk", k="2")': "k is '2'; it must be a number",
    'mm.SAEConfig(3, (1, 3), activation="topk", k=True)': "k is True; it must be a number",
    'mm.SAEConfig(3, (1, 3), activation="batchtopk", k=[1])': "k is [1]; it must be a number",
    "mm.SAEConfig(3, (1, 3), l1='0.1')": "l1 is '0.1'; it must be a number",
    "mm.SAEConfig(3, (1, 3), l1=None)": "l1 is None; it must be a number",
    'mm.SAEConfig(3, (1, 3), l1=np.float32(0.5), activation="topk", k=np.int64(2))': "l1=0.5, encoder_bias=True, "
    "decoder_bias=True, activation='topk', k=2, ",
    'TrainConfig(lr="0.1")': "lr is '0.1'; it must be a number",
    "TrainConfig(warmup=None)": "warmup is None; it must be a number",
    "TrainConfig(betas=.9)": "betas is 0.9; it must be a tuple of numbers",
    "TrainConfig(betas=('a', 0.9))": "betas is 'a'; it must be a number",
    "TrainConfig(snapshots=10)": "snapshots is 10; it must be a tuple of numbers",
    "TrainConfig(lr=np.float32(0.5), clip=1, betas=np.array([0.5, 0.75]))": "lr=0.5, betas=(0.5, 0.75), ",
    "mm.Setting(mm.SAEConfig(3, (2,)), np.ones((4, 3)))": "not SAEConfig and ndarray; n rows of activations are",
    "mm.train(SETTING, START, 2000)": "int was given in place of TrainConfig",
    "mm.train([SETTING, 3], START)": "int was given in place of Setting",
    "mm.train(SETTING, START.W_enc)": "Tensor was given in place of SAE",
    "mm.train(SETTING, START.map(lambda p: p * float('nan')))": "not finite in W_enc, b_enc, W_dec, b_dec",
    "mm.train(SETTING, START[0], TrainConfig(2)).sae.instances": "(1, 1)",
    "TrainConfig(steps=1e4)": "steps holds 10000.0; it must be a whole number",
    "TrainConfig(batch_size=512.0)": "batch_size holds 512.0; it must be a whole number",
    "TrainConfig(records=True)": "records holds True; it must be a whole number",
    "TrainConfig(seed='0')": "seed holds '0'; it must be a whole number",
    "TrainConfig(snapshots=(10.0,))": "snapshots holds 10.0; it must be a whole number",
    "TrainConfig(betas=(0.9,))": "betas is (0.9,); it must be two numbers",
    "TrainConfig(steps=np.int64(5), snapshots=np.array([2, 5]))": "TrainConfig(steps=5, ",
    "mm.SAEConfig(np.int64(3), np.arange(1, 3))": "SAEConfig(d_in=3, widths=(1, 2), ",
    "mm.random_start(mm.SAEConfig(3, [2]), np.arange(2)).instances": "(2,)",
    'mm.diagnose("sae.pt", rows)': "sae is a str; give an SAE, such as exchange.read(path)",
    'mm.diagnose(sae, "x.npy")': "is a str; give a tensor or an array of shape (rows, d_in)",
    "mm.diagnose(sae, rows.tolist())": "part 0 of the activations is a list; give a tensor",
    "mm.diagnose(sae, {0: rows})": "is a dict; give a tensor or an array",
    "mm.diagnose(sae, rows, widths=3)": "widths are 3; give the latents of each prefix",
    "mm.diagnose(sae, rows, widths=(1, 3), draws=5.0)": "draws holds 5.0; it must be a whole number",
    "mm.diagnose(sae, rows, widths=(1, 3), batch='9')": "batch holds '9'; it must be a whole number",
    "mm.diagnose(sae, rows, widths=(1, 3), seed=None)": "seed holds None; it must be a whole number",
    "bool(mm.refit(sae, rows + 0.1).W_dec.shape == sae.W_dec.shape)": "True",
    "mm.settle(SETTING, START, TrainConfig(2), 1.5)": "rounds holds 1.5; it must be a whole number",
    "sae.encode(rows)": "x is a ndarray; give a tensor, such as torch.from_numpy(rows)",
    "mm.train(SETTING, START, device='cuda:9')": "device is cuda:9, and PyTorch finds none of its kind here",
    "mm.diagnose(sae, rows, widths=(1, 3), l1='much')": "l1 is 'much'; it must be a number",
    "mm.diagnose(sae, rows, widths=(1, 3), ridge='1')": "ridge is '1'; it must be a number",
    "mm.diagnose(sae, rows, widths=(1, 3), labels=rows, hierarchy={'dog': 'animal'})": "hierarchy is a dict; give",
    "mm.diagnose(sae, rows, widths=(1, 3), labels=rows, hierarchy=['dog'])": "hierarchy holds 'dog'; it must be",
    "mm.diagnose(sae, rows, widths=(1, 3), labels=rows, hierarchy=1)": "hierarchy is a int; give a list",
}
TRIED = """
import sys
import numpy as np
import matryoshka_mixing as mm
import torch
from matryoshka_mixing.training import TrainConfig
SETTING = mm.Setting(mm.SAEConfig(5, (1, 3)), mm.family(0.3, 0.4).states(), mm.orthonormal_dictionary(3, 5, 0))
START = mm.random_start(SETTING.sae, range(2))
tree, D = mm.family(0.3, 0.4), mm.orthonormal_dictionary(3, 20, 0)
sae, states, rows = mm.start_near(D, [0])[0], tree.states(), np.zeros((9, 20))
for statement in sys.argv[1:]:
    try:
        print(eval(statement))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


def test_what_the_shape_checks_of_the_tests_would_hide():
    """Plain users meet the package without them; values of other types get an error in words, or are taken."""
    done = subprocess.run([sys.executable, "-c", TRIED, *WRONG], capture_output=True, text=True)
    answers = done.stdout.splitlines()
    assert done.returncode == 0 and len(answers) == len(WRONG), done.stderr
    for statement, answer in zip(WRONG, answers, strict=True):
        assert WRONG[statement] in answer, statement
