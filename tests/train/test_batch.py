"""What a batch looks at: predictions in their order of worth, and guides that point where they say."""

import numpy as np
import torch

from spec_engine.train.batch import PREVIOUS, BatchMaker, GuidedLayers
from spec_engine.train.corpus import TokenizedCorpus
from spec_engine.train.objectives import QuoteTasks

LAYERS = GuidedLayers(previous=0, mark=1, match=2, gather=3, copy=5)


def test_answers_come_first_and_labels_follow_their_rows(corpus: TokenizedCorpus) -> None:
    arrays = QuoteTasks(corpus, seed=3).batch(512, 4)
    batch = BatchMaker(GuidedLayers(), 0.25, torch.device("cpu")).make(arrays)
    assert batch.guides == {}
    assert len(batch.rows) == 4 * 512 * 3 // 8
    counted = batch.weights > 0
    flat = torch.from_numpy(arrays["ids"]).reshape(-1)
    assert torch.equal(flat[batch.rows[counted] + 1], batch.labels[counted])
    weight = torch.from_numpy(arrays["weight"]).reshape(-1)[batch.rows[counted] + 1]
    assert torch.equal(weight > 0, batch.is_answer[counted])
    assert torch.equal(batch.weights[counted], torch.where(weight > 0, weight, 0.25))
    assert int(batch.is_answer.sum()) == min(len(batch.rows), int((arrays["weight"][:, 1:] > 0).sum()))


def test_guides_point_to_their_alignments(corpus: TokenizedCorpus) -> None:
    arrays = QuoteTasks(corpus, seed=4, permuted_share=0.0).batch(512, 4)
    guides = BatchMaker(LAYERS, 0.2, torch.device("cpu")).make(arrays).guides
    assert set(guides) == {0, 1, 2, 3, 5}
    rows, targets = guides[0]
    for head, back in enumerate(PREVIOUS):
        assert torch.equal(targets[:, head], rows - back)
    for layer, name in ((1, "mark"), (2, "match")):
        rows, targets = guides[layer]
        want = torch.from_numpy(arrays[name]).gather(1, rows)
        for head in range(targets.shape[1]):
            assert torch.equal(targets[:, head], want)
    rows, targets = guides[5]
    sources = torch.from_numpy(arrays["source"])
    for row, at, goals in zip(range(4), rows, targets[:, 0], strict=True):
        known = goals >= 0
        assert torch.equal(sources[row, at[known] + 1], goals[known])
        copied, source = (torch.from_numpy(arrays["ids"])[row, index[known]] for index in (at + 1, goals))
        assert torch.equal(copied, source), "a guided copy does not copy"


def test_copies_that_could_go_astray_come_first(corpus: TokenizedCorpus) -> None:
    arrays = QuoteTasks(corpus, seed=5).batch(512, 4)
    ids = arrays["ids"]
    often = np.stack([np.bincount(row)[row] for row in ids]) > 3
    ahead = np.pad(arrays["source"][:, 1:], ((0, 0), (0, 1)), constant_values=-1) >= 0
    rows = BatchMaker(LAYERS, 0.2, torch.device("cpu")).make(arrays).guides[5].rows.numpy()
    picked = np.take_along_axis(ahead, rows, 1)
    share = np.take_along_axis(often, rows, 1)[picked].mean()
    assert share > often[ahead].mean() + 0.02
