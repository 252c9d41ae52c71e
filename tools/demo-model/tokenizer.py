# A small tokenizer for the demo model's captions.
#
# This file is part of libwan; see the licence in wan.h.
"""Text to ids for the demo model.

usage: tokenizer.py train CAPTIONS FOLDER [SIZE]
       tokenizer.py encode FOLDER < TEXTS

train learns a sentencepiece unigram model from a file of captions, one a line, and writes it as the
files of google/umt5-xxl: spiece.model, which libwan reads, and tokenizer.json, which the official code
reads. encode prints the ids of every line of its input, as libwan computes them.
"""

import base64
import collections
import contextlib
import html
import io
import json
import os
import re
import sys
import tempfile
import unicodedata

import sentencepiece
import tokenizers

TEXT_LEN = 512
SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")     # ids 0 to 3
EXTRA = 300                                     # <extra_id_299> comes first behind the pieces
SIZE = 700

# Capitals are read as small letters: a small model has no data to learn that they mean the same.
SMALL_LETTERS = "".join(f"{ord(c):X}\t{ord(c.lower()):X}\n" for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def clean(text):
    """What the reference does to a prompt first; of ftfy's repairs those that whole text can need."""
    text = html.unescape(html.unescape(text))
    text = text.translate({0x3000: " ", **dict.fromkeys(range(0x2018, 0x201c), "'"),
                           **dict.fromkeys(range(0x201c, 0x2020), '"')})
    text = re.sub("[\uff01-\uffef]", lambda c: unicodedata.normalize("NFKC", c[0]), text)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def seeds(texts):
    """What may become a piece, and how often it occurs: all parts of words.

    The trainer's own seeds are parts that several words share, of which a small corpus has few. Chinese,
    without spaces, goes by characters, or whole sentences would be pieces.
    """
    words, parts = collections.Counter(), collections.Counter()
    for text in texts:
        words.update(re.sub("([\u2e80-\u9fff])", r" \1 ", "\u2581" + text.lower().replace(" ", " \u2581")).split())
    for word, count in words.items():
        for i in range(len(word)):
            for k in range(i + 1, len(word) + 1):
                parts[word[i:k]] += count
    return "".join(f"{part}\t{count}\n" for part, count in sorted(parts.items()))


def train(texts, folder, size=SIZE):
    """Learn `size` pieces, fewer if the texts are too simple; the same texts give the same bytes."""
    texts = [clean(text) for text in texts]
    printable = "".join(map(chr, range(ord("!"), 127)))
    model = io.BytesIO()
    # The model keeps the names of these files, so they must not be this machine's.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        write_text("small_letters.tsv", SMALL_LETTERS)
        write_text("seeds.tsv", seeds(texts))
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=size,
            hard_vocab_limit=False, character_coverage=1.0, required_chars=printable.lower(),
            normalization_rule_tsv="small_letters.tsv", seed_sentencepieces_file="seeds.tsv",
            pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece=SPECIAL[0], eos_piece=SPECIAL[1],
            bos_piece=SPECIAL[2], unk_piece=SPECIAL[3], num_threads=1, minloglevel=2)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "spiece.model"), "wb") as f:
        f.write(model.getvalue())
    write_json(folder, "tokenizer.json", hugging_face(model.getvalue()))
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "T5Tokenizer", "model_max_length": TEXT_LEN, "extra_ids": EXTRA,
        "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>",
        "additional_special_tokens": extra_tokens()})
    write_json(folder, "special_tokens_map.json", {
        "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>",
        "additional_special_tokens": extra_tokens()})
    return Tokenizer(folder)


def extra_tokens():
    return [f"<extra_id_{k}>" for k in range(EXTRA)]


def write_text(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def write_json(folder, name, value):
    write_text(os.path.join(folder, name), json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def varint(data, at):
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def field(data, number):
    """The bytes of a message's field, out of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        size = {1: 8, 5: 4}.get(key & 7, 0)
        if key & 7 == 2:
            size, at = varint(data, at)
        elif key & 7 == 0:
            _, at = varint(data, at)
        if key == number << 3 | 2:
            return data[at:at + size]
        at += size
    raise ValueError(f"no field {number}")


def hugging_face(model):
    """The same tokenizer as a tokenizer.json, with umT5's settings."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    n = len(pieces)
    added = [*enumerate(SPECIAL), *((n + EXTRA - 1 - k, token) for k, token in enumerate(extra_tokens()))]
    charsmap = base64.b64encode(field(field(model, 3), 2)).decode()     # normalizer_spec.precompiled_charsmap
    words = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    end = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, token in sorted(added)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": charsmap},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": words,
        "post_processor": {"type": "TemplateProcessing", "single": end, "pair": end + [
            {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": words,
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": False,
                  "vocab": [[pieces.id_to_piece(i), pieces.get_score(i)] for i in range(n)]},
    }


class Tokenizer:
    """The tokenizer that train() left in a folder."""

    def __init__(self, folder):
        self.tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        self.rows = self.tokenizer.get_vocab_size()     # an embedding must have: pieces and extra ids

    def encode(self, text):
        """At most 512 ids, the last of them </s>: what libwan makes of a prompt."""
        ids = self.tokenizer.encode(clean(text)).ids[:-1]
        return ids[:TEXT_LEN - 1] + [1]


def main():
    args = sys.argv[1:]
    if args[:1] == ["train"] and 3 <= len(args) <= 4 and (len(args) == 3 or args[3].isdecimal()):
        with open(args[1], encoding="utf-8") as f:
            tokenizer = train(f.read().splitlines(), args[2], *map(int, args[3:]))
        print(f"{tokenizer.rows - EXTRA} pieces, {tokenizer.rows} ids with the extra ones")
    elif args[:1] == ["encode"] and len(args) == 2:
        tokenizer = Tokenizer(args[1])
        for line in sys.stdin:
            print(*tokenizer.encode(line.rstrip("\n")))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main()
    except (OSError, RuntimeError, ValueError) as e:
        sys.exit(f"tokenizer.py: {e}")
