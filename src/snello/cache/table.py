"""Which pages each head holds, in which order. Knows nothing of what is written in them.

A head is one key-value head of one layer of one sequence.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from snello.ops.pages import Lists


class PageTable:
    """For each layer, sequence and head, the pages it holds, padded with the blank page.

    Invariant: `pages[l, b, k, : num_held[l, b, k]]` are held, all entries behind are blank, and no
    page stands twice in one sequence. Heads that a layer does not have hold nothing. `layers` shows
    the same memory, layer by layer.
    """

    def __init__(
        self, num_heads: Sequence[int], max_sequences: int, blank: int, device: torch.device
    ) -> None:
        shape = (len(num_heads), max_sequences, max(num_heads))
        self._blank = blank
        self.pages = torch.full((*shape, 8), blank, dtype=torch.int64, device=device)
        self.num_held = torch.zeros(shape, dtype=torch.int64, device=device)
        self.layers = self._show_layers()
        heads = torch.arange(shape[2], device=device)
        self.exists: Bool[Tensor, "L 1 K"] = (
            heads < torch.tensor(num_heads, device=device)[:, None, None]
        )

    def rows(self, layer: int, sequences: Int[Tensor, " B"], num_heads: int) -> Int[Tensor, "B K"]:
        """Number the heads of one layer, as the other methods want them."""
        _, max_sequences, most_heads = self.num_held.shape
        first = (layer * max_sequences + sequences) * most_heads
        return first[:, None] + torch.arange(num_heads, device=sequences.device)

    def rows_of(
        self, layers: Int[Tensor, " X"], sequences: Int[Tensor, " B"], num_heads: int
    ) -> Int[Tensor, "XB K"]:
        """Number the heads of several layers that have equally many: layer by layer."""
        _, max_sequences, most_heads = self.num_held.shape
        first = (layers[:, None] * max_sequences + sequences).view(-1, 1) * most_heads
        return first + torch.arange(num_heads, device=sequences.device)

    def look_up(
        self, rows: Int[Tensor, "*#shape"], columns: Int[Tensor, "*#shape"]
    ) -> Int[Tensor, "*shape"]:
        """Tell which page stands where; behind the table's end, whichever page."""
        width = self.pages.shape[-1]
        return self.pages.view(-1)[rows * width + columns.clamp_max(width - 1)]

    def list_pages(self, rows: Int[Tensor, "B K"]) -> Int[Tensor, "B K M"]:
        """Tell the pages of each head, padded with blank to the longest of them."""
        most = int(self.num_held.view(-1)[rows].max())
        return self.pages.view(-1, self.pages.shape[-1])[:, :most][rows]

    def append(
        self, rows: Int[Tensor, " R"], counts: Int[Tensor, " R"], pages: Int[Tensor, " N"]
    ) -> None:
        """Hand the first `counts[0]` of `pages` to the head in `rows[0]`, and so on."""
        num_held = self.num_held.view(-1)
        owners = rows.repeat_interleave(counts, output_size=pages.shape[0])
        starts = num_held[rows] + counts - counts.cumsum(0)
        columns = torch.arange(pages.shape[0], device=pages.device)
        columns = columns + starts.repeat_interleave(counts, output_size=pages.shape[0])
        num_held[rows] += counts
        self._widen(int(columns.max()) + 1 if len(pages) else 0)
        self.pages.view(-1, self.pages.shape[-1])[owners, columns] = pages

    def append_each(
        self, sequences: Int[Tensor, " B"], counts: Int[Tensor, "L B K"], pages: Int[Tensor, " N"]
    ) -> None:
        """Hand `counts[l, b, k]` pages to each head of `sequences`; absent heads get none."""
        rows = torch.arange(self.num_held.numel(), device=counts.device)
        rows = rows.view(self.num_held.shape)[:, sequences]
        self.append(rows.flatten(), (counts * self.exists).flatten(), pages)

    def drop(
        self, rows: Int[Tensor, " R"], counts: Int[Tensor, " R"], first_column: int
    ) -> Int[Tensor, " N"]:
        """Take `counts[r]` pages, from `first_column` on, out of each head, and return them."""
        flat = self.pages.view(-1, self.pages.shape[-1])
        columns = torch.arange(flat.shape[1], device=flat.device)
        table = flat[rows]  # (R, M)
        behind = first_column + counts[:, None]
        dropped = table[(columns >= first_column) & (columns < behind)]
        moved = torch.where(columns < first_column, columns, columns + counts[:, None])
        kept = table.gather(1, moved.clamp_max(flat.shape[1] - 1))
        flat[rows] = kept.where(moved < flat.shape[1], self._blank)
        self.num_held.view(-1)[rows] -= counts
        return dropped

    def truncate(
        self, sequences: Int[Tensor, " B"], num_held: Int[Tensor, "L B K"]
    ) -> Int[Tensor, " N"]:
        """Leave each head its first `num_held` pages, or all if it has fewer; return the others."""
        pages = self.pages[:, sequences]
        columns = torch.arange(pages.shape[-1], device=pages.device)
        is_surplus = (columns >= num_held[..., None]) & (pages != self._blank)
        self.pages[:, sequences] = pages.masked_fill(is_surplus, self._blank)
        self.num_held[:, sequences] = self.num_held[:, sequences].minimum(num_held)
        return pages[is_surplus]

    def assign(
        self, sequence: int, num_held: Int[Tensor, "L K"], pages: Int[Tensor, "L K M"]
    ) -> None:
        """Give an empty sequence its pages; entries behind the held ones are blank."""
        self._widen(pages.shape[-1])
        self.pages[:, sequence, :, : pages.shape[-1]] = pages
        self.num_held[:, sequence] = num_held

    def clear(self, sequence: int) -> Int[Tensor, " N"]:
        """Take all pages of all heads from a sequence, and return them."""
        table = self.pages[:, sequence]
        pages = table[table != self._blank]
        table.fill_(self._blank)
        self.num_held[:, sequence] = 0
        return pages

    def reserve(self, num_columns: int) -> None:
        """Make room for heads that will hold `num_columns` pages."""
        self._widen(num_columns)

    def _show_layers(self) -> list[Lists]:
        return [Lists(*part) for part in zip(self.pages, self.num_held, strict=True)]

    @torch.inference_mode(mode=False)
    def _widen(self, num_columns: int) -> None:
        """Make room for heads that hold `num_columns` pages."""
        width = self.pages.shape[-1]
        if num_columns > width:
            extra = max(num_columns - width, width)
            self.pages = torch.nn.functional.pad(self.pages, (0, extra), value=self._blank)
            self.layers = self._show_layers()
