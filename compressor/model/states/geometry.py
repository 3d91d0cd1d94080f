"""How alike the states of any two depths are: sums over the rows of one pass, memory independent of their number."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass
class Geometry:
    """Running means over rows (or tokens) of the similarity of states i and j, each a symmetric matrix [L+1, L+1].

    `token_cosine`: cosine over all tokens that are not padding; `cls_cosine`: cosine of what the head reads; `cls_angle`:
    their angle as a share of pi. All pairs cost one matrix product a batch, so that blocks of layers are measured directly.
    """

    states: int
    rows: int = 0
    tokens: int = 0
    token_cosine: np.ndarray = field(init=False)
    cls_cosine: np.ndarray = field(init=False)
    cls_angle: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.token_cosine, self.cls_cosine, self.cls_angle = (np.zeros((self.states, self.states)) for _ in range(3))

    def add(self, hidden: Sequence[Tensor], read: Sequence[Tensor], mask: Tensor) -> None:
        """Merge a batch: states 0..L, each [B, S, H], what the head would read of each [B, H] ([W, H]), the mask [B, S]."""
        kept = mask.bool()
        flat = torch.stack([torch.nn.functional.normalize(state[kept].float(), dim=-1).flatten() for state in hidden])
        tokens, rows = int(kept.sum()), len(read[0])
        self._merge("token_cosine", (flat @ flat.T).double().cpu().numpy() / tokens, self.tokens, tokens)
        cls = torch.stack([torch.nn.functional.normalize(state.double(), dim=-1) for state in read])
        cosine = torch.einsum("ibh,jbh->bij", cls, cls).clamp(-1, 1)
        # rounding next to 1 becomes an angle of 1e-8; a state has no angle with itself
        angle = torch.arccos(cosine) / torch.pi * (1 - torch.eye(self.states, device=cosine.device))
        self._merge("cls_cosine", cosine.mean(0).cpu().numpy(), self.rows, rows)
        self._merge("cls_angle", angle.mean(0).cpu().numpy(), self.rows, rows)
        self.rows += rows
        self.tokens += tokens

    @classmethod
    def of(cls, states: int, rows: int, tokens: int, **means: np.ndarray) -> "Geometry":
        """Return means that are known of so many rows and tokens."""
        made = cls(int(states), int(rows), int(tokens))
        vars(made).update(means)
        return made

    def merge(self, other: "Geometry") -> None:
        """Add the means over other rows."""
        self._merge("token_cosine", other.token_cosine, self.tokens, other.tokens)
        for name in ("cls_cosine", "cls_angle"):
            self._merge(name, getattr(other, name), self.rows, other.rows)
        self.rows += other.rows
        self.tokens += other.tokens

    def every_other(self) -> "Geometry":
        """Return the same for every other state, from the first on."""
        names = "token_cosine", "cls_cosine", "cls_angle"
        means = {name: getattr(self, name)[::2, ::2] for name in names}
        return Geometry.of(len(means[names[0]]), self.rows, self.tokens, **means)

    def _merge(self, name: str, mean: np.ndarray, before: int, added: int) -> None:
        old = getattr(self, name)
        setattr(self, name, old + (mean - old) * added / max(before + added, 1))


def linear_cka(sample: np.ndarray) -> np.ndarray:
    """Return the linear centred kernel alignment of every pair of states of `sample` [L+1, M, H], as [L+1, L+1].

    `|X^T Y|_F^2 / (|X^T X|_F |Y^T Y|_F)` on centred states (Kornblith et al. 2019, eq. 3 in feature space), so nothing of
    size M x M is made. 0 where a state is the same for all rows: such a state is like no other.
    """
    centred = torch.from_numpy(sample - sample.mean(axis=1, keepdims=True, dtype=np.float64).astype(sample.dtype))
    norms = [float(torch.linalg.matrix_norm(state.T @ state)) for state in centred]
    spread = [float(np.square(state, dtype=np.float64).sum()) for state in sample]
    flat = [norm <= 1e-10 * max(total, 1e-300) for norm, total in zip(norms, spread, strict=True)]
    alike = np.eye(len(sample))
    for first in range(len(sample)):
        for second in range(first + 1, len(sample)):
            if not (flat[first] or flat[second]):
                cross = float(torch.linalg.matrix_norm(centred[first].T @ centred[second]))
                alike[first, second] = alike[second, first] = cross**2 / (norms[first] * norms[second])
    return alike
