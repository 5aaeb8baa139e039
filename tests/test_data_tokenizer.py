"""Tokenizers: round trips, special tokens, fingerprints, errors."""

import json
import sys

import numpy as np
import pytest

from equimu._errors import EquimuError
from equimu.data import ByteTokenizer, HuggingFaceTokenizer, Tokenizer, tokenizer_from_name

tokenizers = pytest.importorskip("tokenizers")

TEXT = "def f(x):\n\treturn 'naïve €☃ 😀'\r\n"


def save_tokenizer(path, special=("<s>", "</s>"), change=None):
    """A byte-level BPE tokenizer with no merges, as a file; `change` may edit its JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    content = json.loads(tokenizer.to_str())
    if change is not None:
        change(content)
    path.write_text(json.dumps(content))
    return path


def test_bytes_are_the_utf8_of_the_text():
    tokenizer = ByteTokenizer()
    (ids,) = tokenizer.encode_batch([TEXT])
    assert ids.tolist() == list(TEXT.encode("utf-8"))
    assert tokenizer.vocab_size == 256 and tokenizer.bos == tokenizer.eod == 0
    assert tokenizer.decode([0, *ids.tolist(), 0]) == TEXT


def test_bytes_refuse_the_character_kept_for_end_of_document():
    with pytest.raises(EquimuError, match="NUL"):
        ByteTokenizer().encode_batch(["good", "a\0b"])


def test_bytes_decode_broken_utf8():
    assert ByteTokenizer().decode(np.array([0xC3, 0x28])) == "\ufffd("


def test_both_tokenizers_satisfy_the_protocol(tmp_path):
    assert isinstance(ByteTokenizer(), Tokenizer)
    assert isinstance(HuggingFaceTokenizer(save_tokenizer(tmp_path / "t.json")), Tokenizer)


def test_hf_round_trip_and_special_ids(tmp_path):
    tokenizer = HuggingFaceTokenizer(save_tokenizer(tmp_path / "t.json"))
    assert (tokenizer.bos, tokenizer.eod, tokenizer.vocab_size) == (256, 257, 258)
    first, second = tokenizer.encode_batch([TEXT, "</s>"])
    assert tokenizer.decode([256, *first.tolist(), 257]) == TEXT
    assert len(first) == len(TEXT.encode())
    # text that reads like a special token stays text, or a document could end in its middle
    assert tokenizer.eod not in second and tokenizer.decode(second) == "</s>"


def test_hf_ignores_truncation_and_padding_of_the_file(tmp_path):
    def truncate(content):
        content["truncation"] = {
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        content["padding"] = {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<s>",
        }

    tokenizer = HuggingFaceTokenizer(save_tokenizer(tmp_path / "t.json", change=truncate))
    assert [len(ids) for ids in tokenizer.encode_batch(["a", "abcde"])] == [1, 5]


def test_hf_vocabulary_with_holes_counts_to_the_largest_id(tmp_path):
    def spread(content):
        content["model"]["vocab"]["zz"] = 999

    tokenizer = HuggingFaceTokenizer(save_tokenizer(tmp_path / "t.json", change=spread))
    assert tokenizer.vocab_size == 1000


def test_hf_special_tokens_by_usual_name_or_by_flag(tmp_path):
    gpt2 = save_tokenizer(tmp_path / "gpt2.json", special=["<|endoftext|>"])
    assert HuggingFaceTokenizer(gpt2).bos == HuggingFaceTokenizer(gpt2).eod == 256
    t5 = save_tokenizer(tmp_path / "t5.json", special=["<pad>", "</s>"])
    assert HuggingFaceTokenizer(t5, bos="<pad>").bos == 256
    two = save_tokenizer(tmp_path / "two.json", special=["</s>", "<eos>"])
    with pytest.raises(
        EquimuError, match="which token ends a document; write .*eod=TOKEN.* special tokens, </s>, <eos>$"
    ):
        HuggingFaceTokenizer(two)
    assert HuggingFaceTokenizer(two, eod="<eos>").eod == 257
    with pytest.raises(
        EquimuError, match=r"which token ends a document; write PATH\?eod=TOKEN.* special tokens, \[X\]$"
    ):
        HuggingFaceTokenizer(save_tokenizer(tmp_path / "none.json", special=["[X]"]))
    with pytest.raises(EquimuError, match="no token '<end>' for eod; write .* special tokens, </s>, <eos>$"):
        HuggingFaceTokenizer(two, eod="<end>")


def test_fingerprint_follows_content_and_special_tokens_not_the_path(tmp_path):
    one = save_tokenizer(tmp_path / "one.json", special=["<s>", "</s>"])
    copy = save_tokenizer(tmp_path / "copy.json", special=["<s>", "</s>"])
    other = save_tokenizer(tmp_path / "other.json", special=["<s>", "</s>", "<x>"])
    fingerprint = HuggingFaceTokenizer(one).fingerprint
    assert HuggingFaceTokenizer(copy).fingerprint == fingerprint
    assert HuggingFaceTokenizer(other).fingerprint != fingerprint
    assert HuggingFaceTokenizer(one, bos="</s>").fingerprint != fingerprint
    assert ByteTokenizer().fingerprint == "bytes-eod0"  # in stores out there: never to change


def test_tokenizer_from_name(tmp_path):
    path = save_tokenizer(tmp_path / "t.json")
    assert isinstance(tokenizer_from_name("bytes"), ByteTokenizer)
    assert tokenizer_from_name(str(path)).fingerprint == HuggingFaceTokenizer(path).fingerprint
    assert tokenizer_from_name(str(path), bos="</s>").bos == 257
    with pytest.raises(EquimuError, match="byte 0"):
        tokenizer_from_name("bytes", eod="</s>")
    with pytest.raises(EquimuError, match="write 'bytes'"):
        tokenizer_from_name("byte")
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(EquimuError, match="not a tokenizer file") as error:
        tokenizer_from_name(str(tmp_path / "no.json"))
    assert "\n" not in str(error.value)


def test_missing_package_names_the_extra(tmp_path, monkeypatch):
    path = save_tokenizer(tmp_path / "t.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(EquimuError, match=r"pip install 'equimu\[hf\]'"):
        HuggingFaceTokenizer(path)
