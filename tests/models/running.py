"""Running texts through a decoder and a memory, as an engine would: chunks, then single tokens."""

import torch


@torch.no_grad()
def run_ragged(decoder, memory, texts, *, num_decoded, chunks):
    """Prefill each text but its last `num_decoded` tokens, in chunks of its own size; decode these.

    Texts whose prefill is over wait for the others. Returns the logits of every position.
    """
    handles = [memory.add() for _ in texts]
    done = [0] * len(texts)
    logits = [[] for _ in texts]
    ends = [len(text) - num_decoded for text in texts]
    while done != ends:
        counts = [min(c, end - d) for c, d, end in zip(chunks, done, ends, strict=True)]
        run_step(decoder, memory, handles, texts, done, counts, logits)
    for _ in range(num_decoded):
        run_step(decoder, memory, handles, texts, done, [1] * len(texts), logits)
    return [torch.cat(parts) for parts in logits]


def run_step(decoder, memory, handles, texts, done, counts, logits):
    """One step over the texts that still have tokens; `done` and `logits` grow in place."""
    live = [i for i, count in enumerate(counts) if count]
    tokens = torch.cat([texts[i][done[i] : done[i] + counts[i]] for i in live])
    step = memory.begin([handles[i] for i in live], [counts[i] for i in live])
    out = decoder.project(decoder(tokens, step))
    memory.commit(step)
    for i, part in zip(live, out.split([counts[i] for i in live]), strict=True):
        logits[i].append(part)
        done[i] += counts[i]
