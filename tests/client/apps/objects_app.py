"""Functions that use queues, dicts and secrets from inside their containers."""

import os

import modal

app = modal.App("objects")


@app.function()
def double(inbox: modal.Queue, outbox: modal.Queue) -> int:
    done = 0
    while (item := inbox.get(timeout=60)) is not None:
        outbox.put(item * 2)
        done += 1
    return done


@app.function()
def count(name: str, words: list[str]) -> int:
    counts = modal.Dict.from_name(name)
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return counts.len()


@app.function(secrets=[modal.Secret.from_dict({"FLAVOUR": "salt"})])
def flavour() -> str:
    return os.environ["FLAVOUR"]
