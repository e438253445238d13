"""The demo models' tokenizer: byte-level BPE, digits one by one, a chat template whose turns all end alike."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def render(document: list[dict[str, str]] | str) -> str:
    """A chat or a plain text as one string with its special tokens, equal to what the chat template makes."""
    if isinstance(document, str):
        return f"{BEGIN}{document}{END}"
    return BEGIN + "".join(f"<|{message['role']}|>{message['content'].strip()}{END}" for message in document)


def train_tokenizer(documents: Iterable[str], folder: Path, size: int = 4096) -> PreTrainedTokenizerFast:
    """Trains on `documents`, saves to `folder` in the form that AutoTokenizer loads."""
    specials = [PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES)]
    inner = Tokenizer(models.BPE())
    inner.add_special_tokens(specials)
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet)
    )
    begin = inner.token_to_id(BEGIN)
    inner.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1 << 30,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that `train_tokenizer` saved."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
