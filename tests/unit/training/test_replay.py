from __future__ import annotations

import copy

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from lorascope.errors import ConfigError, DataError, EvaluationError
from lorascope.schema.items import GenerateItem, LikelihoodItem
from lorascope.schema.recipe import RecipeTask, Replay
from lorascope.training.encoding import IGNORED
from lorascope.training.from_scratch import byte_level_tokenizer, new_llama
from lorascope.training.replay import encode_replay, mix_replay
from lorascope.training.replay_writing import (
    ReplayText,
    replay_from_lines,
    replay_lines,
    write_replay_texts,
)

CPU = torch.device("cpu")
TASK = RecipeTask(kind="generate", train="t.jsonl", max_length=64, too_long="refuse", answer_only=False)


def rows(count, first=0):
    return [{"input_ids": [first + number], "labels": [first + number]} for number in range(count)]


@pytest.mark.parametrize(("count", "ratio", "replayed"), [(95, 0.05, 5), (99, 0.01, 1), (10, 0.5, 10), (3, 0.01, 1)])
def test_replay_is_the_asked_share_of_all_rows(count, ratio, replayed):
    mixed = mix_replay(rows(count), rows(50, 1000), ratio, seed=0)
    found = [row["input_ids"][0] for row in mixed.rows]
    assert mixed.replayed == sum(token >= 1000 for token in found) == replayed
    assert sorted(token for token in found if token < 1000) == list(range(count))
    assert len(set(found)) == len(found)


def test_replay_repeats_only_when_all_of_it_is_used_and_says_so():
    mixed = mix_replay(rows(20), rows(4, 1000), 0.5, seed=0)
    tokens = [row["input_ids"][0] for row in mixed.rows if row["input_ids"][0] >= 1000]
    assert [tokens.count(1000 + number) for number in range(4)] == [5] * 4
    assert "each is used 5.0 times" in mixed.notes[1]
    assert len(mix_replay(rows(20), rows(40, 1000), 0.5, seed=0).notes) == 1


def test_mixing_follows_the_seed_spreads_replay_and_keeps_the_origins():
    mixed, again = (mix_replay(rows(300), rows(300, 1000), 0.25, seed=4) for _ in range(2))
    assert mixed == again
    assert mixed.rows != mix_replay(rows(300), rows(300, 1000), 0.25, seed=5).rows
    halves = [sum(origin is None for origin in part) for part in (mixed.origins[:200], mixed.origins[200:])]
    assert min(halves) > 30
    for row, origin in zip(mixed.rows, mixed.origins, strict=True):
        assert (row["input_ids"][0] >= 1000) is (origin is None)
        assert origin is None or row["input_ids"][0] == origin


def test_without_replay_there_is_nothing_to_mix():
    with pytest.raises(ConfigError, match="nothing to replay"):
        mix_replay(rows(3), [], 0.1, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(["Where is Oslo? It is in Norway, where it rains."] * 3, vocab_size=300)


@pytest.fixture(scope="module")
def model(tokenizer):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = new_llama(tokenizer, **sizes, initializer_range=0.3)
    made.generation_config.repetition_penalty = 5.0  # one of the settings that a checkpoint may bring along
    return made


def learned(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != IGNORED])


def test_general_texts_are_learned_whole_and_questions_by_their_answers(tokenizer):
    text = LikelihoodItem(item_id="t", text="It is in Norway. " * 30)
    question = GenerateItem(item_id="q", prompt="Where is Oslo?", references=("In Norway.",))
    found = encode_replay([text, question], TASK, tokenizer)
    assert len(found.rows[0]["input_ids"]) == 64  # cut, though the task refuses longer items
    assert found.rows[0]["labels"][1:] == found.rows[0]["input_ids"][1:]
    assert learned(tokenizer, found.rows[1]) == " In Norway.</s>"


def test_what_was_broken_off_is_no_end_to_learn(tokenizer):
    texts = [
        ReplayText(text="It rains.", ended=True),
        ReplayText(text="It rai", ended=False),
        ReplayText(text=" In", ended=False, prompt="Where is Oslo?"),
    ]
    found = [learned(tokenizer, row) for row in encode_replay(texts, TASK, tokenizer).rows]
    assert found == ["It rains.</s>", "It rai", " In"]


REPLAY = Replay(items=6, max_new_tokens=12)
PROMPTS = [
    GenerateItem(item_id=str(number), prompt="Where is Oslo" + "?" * number, references=("x",)) for number in range(4)
]


def written(model, tokenizer, replay=REPLAY, prompts=(), **options):
    return write_replay_texts(model, tokenizer, replay, prompts, **{"seed": 0, "device": CPU, **options})


@pytest.mark.parametrize("prompts", [(), PROMPTS], ids=["start", "prompts"])
def test_the_base_writes_the_same_texts_whatever_the_batch(model, tokenizer, prompts):
    before = torch.get_rng_state()
    model.train()
    first = written(model, tokenizer, prompts=prompts, batch=6)
    assert first == written(model, tokenizer, prompts=prompts, batch=2)
    assert first.texts != written(model, tokenizer, prompts=prompts, batch=6, seed=1).texts
    assert len({text.text for text in first.texts}) > 1
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert model.generation_config.repetition_penalty == 5.0
    assert {text.prompt for text in first.texts} == ({item.prompt for item in prompts} or {None})


def test_texts_follow_the_models_distribution(model, tokenizer):
    replay = Replay(items=2000, max_new_tokens=1, top_p=1.0, temperature=0.7)
    with torch.no_grad():
        logits = model(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    seen = []
    model.generate, whole = (lambda **given: seen.append(whole(**given)) or seen[-1]), model.generate
    try:
        written(model, tokenizer, replay, batch=1000)
    finally:
        del model.generate
    tokens = torch.cat([ids[:, 1] for ids in seen])
    share = torch.bincount(tokens, minlength=len(expected)) / len(tokens)
    likely = expected.topk(10).indices
    spread = (expected[likely] * (1 - expected[likely]) / 2000).sqrt()
    assert bool(((share[likely] - expected[likely]).abs() < 4 * spread).all())


def test_little_temperature_or_top_p_is_greedy(model, tokenizer):
    for options in ({"top_p": 1e-6}, {"temperature": 1e-4}):
        replay = Replay(items=1, max_new_tokens=8, **options)
        (text,) = written(model, tokenizer, replay, PROMPTS[:1]).texts
        ids = tokenizer(PROMPTS[0].prompt, return_tensors="pt", return_token_type_ids=False)
        own = GenerationConfig(
            max_new_tokens=8, repetition_penalty=1.0, do_sample=False, eos_token_id=2, pad_token_id=0
        )
        greedy = model.generate(**ids, generation_config=own)[0, ids["input_ids"].shape[1] :]
        assert text.text == tokenizer.decode(greedy, skip_special_tokens=True).rstrip()


def test_chats_are_asked_through_the_template_and_come_back_as_chats(model, tokenizer):
    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    item = GenerateItem(item_id="c", prompt=None, messages=({"role": "user", "content": "Oslo?"},), references=("x",))
    found = written(model, chat, Replay(items=2, max_new_tokens=4), [item])
    assert all(text.messages == item.messages for text in found.texts)
    for row, text in zip(encode_replay(found.texts, TASK, chat).rows, found.texts, strict=True):
        assert learned(chat, row) == text.text.strip() + ("</s>" if text.ended else "")


def test_an_encoder_decoder_writes_after_prompts_only(tokenizer):
    torch.manual_seed(0)
    model = BartForConditionalGeneration(
        BartConfig(
            vocab_size=300, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, init_std=0.5,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, decoder_start_token_id=2, forced_eos_token_id=None, max_position_embeddings=64,
        )
    )  # fmt: skip
    found = written(model, tokenizer, prompts=PROMPTS, batch=6)
    assert found.texts == written(model, tokenizer, prompts=PROMPTS, batch=1).texts
    assert encode_replay(found.texts, TASK, tokenizer, encoder_decoder=True).rows
    with pytest.raises(ConfigError, match="after a prompt only"):
        written(model, tokenizer)


def test_without_a_start_token_prompts_are_needed(model, tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    with pytest.raises(ConfigError, match="no beginning-of-text token") as caught:
        written(model, bare)
    assert "replay.prompts" in str(caught.value.remedy)
    assert written(model, bare, prompts=PROMPTS).texts


def test_loops_empty_texts_and_doubles_are_dropped_and_counted(model, tokenizer):
    outputs = iter([[5, 9, 5, 2], [2, 2, 2, 2], [5, 9, 5, 2], [7] * 20, list(range(270, 290))])
    model.generate = lambda **given: torch.tensor([[1, *next(outputs)]])
    try:
        found = written(model, tokenizer, Replay(items=5, max_new_tokens=20), batch=1)
    finally:
        del model.generate
    assert (len(found.texts), found.empty, found.looping, found.repeated) == (2, 1, 1, 1)
    assert [text.ended for text in found.texts] == [True, False]
    assert found.notes == ("replay: the base wrote 2 texts; dropped: 1 empty, 1 looping, 1 written before",)


def test_if_nothing_can_be_used_or_read_it_is_an_error(model, tokenizer):
    model.generate = lambda **given: torch.tensor([[1, 2]] * len(given["input_ids"]))
    try:
        with pytest.raises(EvaluationError, match="none of 6 texts"):
            written(model, tokenizer)
    finally:
        del model.generate
    with pytest.raises(DataError, match="no prompt to write after") as caught:
        written(model, tokenizer, prompts=[PROMPTS[0], LikelihoodItem(item_id="e", text=" ")])
    assert caught.value.where == "replay.prompts, item 2"
    with pytest.raises(ConfigError, match="leave no room"):
        written(model, tokenizer, prompts=PROMPTS, context_length=12)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="NaN"):
        written(broken, tokenizer)


def test_long_prompts_lose_their_beginning_and_progress_is_told(model, tokenizer):
    seen = []
    prompts = [GenerateItem(item_id="l", prompt="Where is Oslo? " * 30 + "Oslo?", references=("x",))]
    found = written(
        model, tokenizer, prompts=prompts, batch=4, context_length=40, on_progress=lambda *done: seen.append(done)
    )
    assert found.texts
    assert seen == [(4, 6), (6, 6)]


def test_texts_survive_their_file():
    texts = [
        ReplayText(text="one\u2028two\n三", ended=True),
        ReplayText(text=" In", ended=False, prompt="Where?"),
        ReplayText(text="yes", ended=True, messages=({"role": "user", "content": "?"},)),
    ]
    assert replay_from_lines(replay_lines(texts), where="replay.jsonl") == texts
    with pytest.raises(DataError, match="no text that a base wrote") as caught:
        replay_from_lines(replay_lines(texts)[:-9], where="replay.jsonl")
    assert caught.value.where == "replay.jsonl, line 3"
