"""Real clients against a running `zoo serve`: the `openai` package and lm-evaluation-harness."""

from __future__ import annotations

import json
import os

import pytest

openai = pytest.importorskip("openai")

PROMPTS = ["In the beginning", "God", "床前明月光", "the heaven and the earth. " * 3]
TALK = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "In the beginning?"}]


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=served.url + "/v1", api_key="sesame", max_retries=0, timeout=60) as found:
        yield found


def greedy(offline, prompt, new, adapter="", stop=()):
    offline.use(adapter)
    return "".join(offline.sample(prompt, new, stop=stop))


def test_a_greedy_completion_is_the_offline_one(client, offline):
    found = client.completions.create(model="small", prompt=PROMPTS, max_tokens=16, temperature=0)
    assert [choice.text for choice in found.choices] == [greedy(offline, prompt, 16) for prompt in PROMPTS]
    assert {choice.finish_reason for choice in found.choices} <= {"length", "stop"}
    assert found.usage.prompt_tokens == sum(len(offline.encode(prompt)) for prompt in PROMPTS)


def test_models_and_adapters(client, offline):
    assert [model.id for model in client.models.list()] == ["small", "poems"]
    assert client.models.retrieve("poems").model_extra["parent"] == "small"
    texts = {}
    for name, adapter in (("small", ""), ("poems", "poems")):
        found = client.completions.create(model=name, prompt=PROMPTS[0], max_tokens=16, temperature=0)
        texts[name] = found.choices[0].text
        assert texts[name] == greedy(offline, PROMPTS[0], 16, adapter)
    assert texts["small"] != texts["poems"]


def test_adapters_side_by_side_do_not_mix(client, offline):
    streams = [
        client.completions.create(model=name, prompt=prompt, max_tokens=16, temperature=0, stream=True)
        for name in ("small", "poems")
        for prompt in PROMPTS[:2]
    ]
    texts = ["".join(chunk.choices[0].text for chunk in stream) for stream in streams]
    assert texts == [greedy(offline, prompt, 16, adapter) for adapter in ("", "poems") for prompt in PROMPTS[:2]]


def test_a_conversation_whole_and_streamed(client, offline):
    offline.use("")
    ids = offline.chat_ids(TALK)
    from zoo_core.generate import Sampling

    wanted = "".join(offline.answer(ids, offline.rules(Sampling(0.0), chat=True), 20))
    found = client.chat.completions.create(model="small", messages=TALK, max_tokens=20, temperature=0)
    assert found.choices[0].message.content == wanted and found.choices[0].message.role == "assistant"
    assert found.usage.prompt_tokens == len(ids)
    stream = client.chat.completions.create(
        model="small", messages=TALK, max_completion_tokens=20, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == wanted
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("length", "stop")
    assert chunks[-1].usage == found.usage


def test_logprobs_are_those_of_the_model(client, offline):
    import numpy as np

    from zoo_core.generate.scoring import score_rows

    offline.use("")
    found = client.completions.create(
        model="small", prompt=PROMPTS[0], max_tokens=6, temperature=0, logprobs=3, echo=True
    )
    logprobs = found.choices[0].logprobs
    ids = offline.encode(PROMPTS[0])
    given = client.completions.create(model="small", prompt=ids, max_tokens=0, temperature=0, logprobs=0, echo=True)
    (scores,) = score_rows(offline.engine, [ids])
    assert given.choices[0].logprobs.token_logprobs[0] is None
    np.testing.assert_allclose(given.choices[0].logprobs.token_logprobs[1:], scores.logprobs[1:], atol=1e-4)
    np.testing.assert_allclose(logprobs.token_logprobs[1 : len(ids)], scores.logprobs[1:], atol=1e-4)
    new = list(zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True))[len(ids) :]
    assert len(new) == 6 and all(value == max(top.values()) and len(top) == 3 for value, top in new)
    chat = client.chat.completions.create(
        model="small", messages=TALK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=2
    )
    content = chat.choices[0].logprobs.content
    assert len(content) == 5 and all(one.logprob == one.top_logprobs[0].logprob for one in content)


def test_n_seeds_and_sampling(client):
    def texts(**more):
        found = client.completions.create(model="small", prompt="God", max_tokens=16, **more)
        return [choice.text for choice in found.choices]

    first = texts(n=3, seed=7)
    assert len(set(first)) == 3 and texts(n=3, seed=7) == first and texts(seed=7) == first[:1]
    assert texts(n=3, seed=8) != first and texts(n=2) != texts(n=2)
    assert texts(extra_body={"top_k": 1}) == texts(temperature=0)
    assert texts(temperature=0, frequency_penalty=2.0) != texts(temperature=0)


def test_stop_strings(client, offline):
    whole = greedy(offline, "God", 16)
    stop = whole[7:9]
    found = client.completions.create(model="small", prompt="God", max_tokens=16, temperature=0, stop=[stop])
    assert found.choices[0].text == whole[: whole.find(stop)] and found.choices[0].finish_reason == "stop"


def test_errors_have_the_types_of_the_package(client, served):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="a", max_tokens=-1)
    assert caught.value.param == "max_tokens" and caught.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="small", prompt="In the beginning " * 200)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="large", prompt="a")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="no tools"):
        client.chat.completions.create(
            model="small", messages=TALK, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    wrong = openai.OpenAI(base_url=served.url + "/v1", api_key="open", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()


def test_beyond_the_queue_the_answer_is_429(client):
    long = {"model": "small", "prompt": "a", "max_tokens": 250, "stream": True, "extra_body": {"ignore_eos": True}}
    with client.completions.create(n=12, **long) as stream:
        next(stream)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="small", prompt="a")
        assert int(caught.value.response.headers["retry-after"]) >= 1 and caught.value.code == "queue_full"
    # who held the places has gone
    found = client.with_options(max_retries=5).completions.create(model="small", prompt="a", max_tokens=2)
    assert found.usage.completion_tokens <= 2


def test_lm_eval_scores_a_local_task_as_the_model_does(served, offline, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    for name, value in {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"),
                        "OPENAI_API_KEY": "sesame"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    questions = [
        {"question": "In the beginning God", "choices": [" created", " earth", " the"], "answer": 0},
        {"question": "the heaven and the", "choices": [" beginning", " earth"], "answer": 1},
        {"question": "God created", "choices": [" the", " 床前", " moon"], "answer": 2},
        {"question": "In", "choices": [" the heaven", " and"], "answer": 0},
    ]
    (tmp_path / "questions.json").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    (tmp_path / "verses.yaml").write_text(
        f"""task: verses
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "questions.json"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""",
        encoding="utf-8",
    )
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={"model": "small", "base_url": served.url + "/v1/completions", "tokenizer_backend": "remote",
                    "auth_token": "sesame", "max_length": 256, "num_concurrent": 3, "batch_size": 2},
        tasks=["verses"], task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True, bootstrap_iters=0,
    )  # fmt: skip
    right = 0
    for sample in found["samples"]["verses"]:
        doc, wanted = sample["doc"], []
        for choice, (answer, *_) in zip(doc["choices"], sample["resps"], strict=True):
            value, is_greedy = offline_score(offline, doc["question"], choice)
            assert float(answer[0]) == pytest.approx(value, abs=1e-3)
            assert str(answer[1]) == str(is_greedy)
            wanted.append(value)
        right += wanted.index(max(wanted)) == doc["answer"]
    assert found["results"]["verses"]["acc,none"] == right / len(questions)
    assert os.environ["HF_DATASETS_OFFLINE"] == "1"


def offline_score(offline, question, choice):
    from zoo_core.generate.scoring import score_rows

    offline.use("")
    whole, first = offline.tokenizer.encode(question + choice), len(offline.tokenizer.encode(question))
    (scores,) = score_rows(offline.engine, [whole], firsts=[first])
    return scores.total, bool(scores.greedy[first:].all())
