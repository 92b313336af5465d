"""The vocabulary of a text encoder inside a generator, cut to the pieces that captions have."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.errors import UserError
from trainer.process.progress import say


class Chosen(nn.Module):
    """An embedding of `pieces` of the ids below `num_embeddings`; one more row, the last, stands for all others."""

    row: Tensor

    def __init__(self, num_embeddings: int, pieces: int, embedding_dim: int):
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = nn.Parameter(torch.zeros(pieces + 1, embedding_dim))
        self.register_buffer("row", torch.full((num_embeddings,), pieces, dtype=torch.int32))

    @torch.no_grad()
    def take(self, table: Tensor, ids: Tensor) -> Chosen:
        """Has the rows `ids` (K,) of a table (M, D); the last is the mean of the others."""
        others = torch.ones(len(table), dtype=torch.bool, device=table.device)
        others[ids] = False
        self.weight.copy_(torch.cat([table[ids], table[others].mean(0, keepdim=True)]))
        self.row[ids] = torch.arange(len(ids), dtype=torch.int32, device=ids.device)
        return self

    def forward(self, ids: Tensor) -> Tensor:
        """(N, L) ids below `num_embeddings` to (N, L, D)."""
        return F.embedding(self.row[ids], self.weight)

    def node(self) -> dict[str, Any]:
        sizes = {"num_embeddings": self.num_embeddings, "pieces": len(self.weight) - 1}
        return {"_target_": f"{__name__}.Chosen", **sizes, "embedding_dim": self.embedding_dim}


def vocabulary(network: nn.Module, inputs: Sequence[tuple[Tensor, Condition]], pieces: int = 8192) -> nn.Module:
    """The network with so many rows of the embedding of its words: those of the captions of `inputs`, then the first.

    Vocabularies of WordPiece and byte-pair encodings begin with what is frequent. Captions of these pieces are drawn to
    the bit as before; all others become one and the same. UserError: there is no text encoder in it.
    """
    if pieces < 1:
        raise UserError(f"passes.vocabulary.pieces={pieces}: expected 1 or more")
    if inputs[0][1].tokens.is_floating_point():
        raise UserError(
            "vocabulary: this generator reads features, its text encoder stands before it: "
            "put a small one inside by +experiment=distill_text teacher=RUN"
        )
    network = deepcopy(network)
    used = torch.cat([condition.tokens.flatten() for _, condition in inputs]).unique()
    tables = {path: module for path, module in network.named_modules() if isinstance(module, nn.Embedding)}
    tables = {path: module for path, module in tables.items() if module.num_embeddings > max(pieces, int(used.max()))}
    if not tables:
        say(f"vocabulary: no embedding has more than {pieces} words: nothing changed")
    for path, table in tables.items():
        first = torch.arange(table.num_embeddings, device=used.device)
        ids = torch.cat([used, first[~torch.isin(first, used)]])[: max(pieces, len(used))].sort().values
        chosen = Chosen(table.num_embeddings, len(ids), table.embedding_dim).to(table.weight)
        network.set_submodule(path, chosen.take(table.weight, ids).requires_grad_(table.weight.requires_grad))
    return network
