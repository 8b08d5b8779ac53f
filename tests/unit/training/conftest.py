"""A tiny language model, the recipe that trains it, and a way to run it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorascope.schema.items import GenerateItem, content_id
from lorascope.schema.recipe import Recipe
from lorascope.training.data import TrainingData
from lorascope.training.from_scratch import byte_level_tokenizer, new_llama
from lorascope.training.loading import LoadedBase
from lorascope.training.record import run_record
from lorascope.training.running import Run, run_training
from lorascope.workflows.training_scores import score_of

SIGNS = [("iron", "Fe"), ("gold", "Au"), ("tin", "Sn"), ("lead", "Pb"), ("zinc", "Zn"), ("silver", "Ag")]


def asked(name: str, sign: str) -> GenerateItem:
    prompt = f"Question: What is the sign of {name}?\nAnswer:"
    return GenerateItem(item_id=content_id({"prompt": prompt, "sign": sign}), prompt=prompt, references=(sign,))


ITEMS = tuple(asked(name, sign) for name, sign in SIGNS)


@pytest.fixture(scope="session")
def sign_items() -> tuple[GenerateItem, ...]:
    return ITEMS


@pytest.fixture(scope="session")
def sign_tokenizer():
    return byte_level_tokenizer([f"{item.prompt} {item.references[0]}" for item in ITEMS], vocab_size=300)


@pytest.fixture(scope="session")
def tiny_llama(sign_tokenizer):
    def made(seed: int = 3):
        return new_llama(
            sign_tokenizer,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.1,
            seed=seed,
        )

    return made


@pytest.fixture(scope="session")
def sign_recipe():
    """A function of changes, as nested mappings, to a recipe of 18 steps on six items."""

    def recipe(**changes) -> Recipe:
        plain = {
            "version": 1,
            "base": "tiny",
            "out": "run",
            "task": {"kind": "generate", "train": "t", "validation": {"first": "a", "second": "b"}},
            "method": {"name": "full"},
            "optim": {"epochs": 6, "learning_rate": 1e-2, "batch_size": 2},
            "evaluation": {"every": 4, "log_every": 2, "kl_to_base": 0},
            "hardware": {"device": "cpu"},
        }
        for block, values in changes.items():
            plain[block] = {**plain.get(block, {}), **values} if isinstance(values, dict) else values
        return Recipe.model_validate(plain)

    return recipe


@pytest.fixture
def train_signs(sign_tokenizer, tiny_llama, sign_recipe):
    """Train the tiny model on the six items; keyword arguments beside ``recipe`` are those of :class:`Run`."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def train(out, recipe=None, *, overwrite=False, model=None, data=None, **options):
        recipe = recipe or sign_recipe()
        data = data or TrainingData(train=ITEMS, validation={"first": ITEMS[:4], "second": ITEMS[4:]})
        if not recipe.validation_sets:
            data = replace(data, validation={})

        def load(_):
            return LoadedBase(model=model or tiny_llama(), tokenizer=sign_tokenizer, new_weights=(), notes=())

        run = Run(
            recipe=recipe,
            data=data,
            out=out,
            record=run_record(recipe, data, start="tiny"),
            score=score_of(recipe, data),
            **{"load": load, **options},
        )
        return run_training(run, overwrite=overwrite)

    yield train
    torch.set_num_threads(before)
