"""A table of embeddings kept in few bits."""

from torch import Tensor, nn

from llama_minimal.quantization.layers import QuantizedLinear
from llama_minimal.quantization.parts import Part


class QuantizedEmbedding(nn.Module):
    """Look rows up in a quantized table, which may be the output layer, too."""

    def __init__(self, table: QuantizedLinear, *, is_output: bool) -> None:
        super().__init__()
        table.is_table = True
        self.num_embeddings = table.out_features
        """How many rows there are in all; another process may have some of them."""
        if is_output:
            self._table = (table,)  # it stands under its own name in the model
        else:
            self.table = table

    @property
    def _rows(self) -> QuantizedLinear:
        return self._table[0] if "_table" in self.__dict__ else self.table

    def own_table(self) -> None:
        """Keep the table itself: where the output layer is another process's, nobody else here does."""
        if "_table" in self.__dict__:
            (self.table,) = self.__dict__.pop("_table")

    def cut(self, axis: int, features: slice) -> dict[str, tuple[tuple[int, ...], Part]]:
        """Do what ``QuantizedLinear.cut`` does; a table that is the output layer is cut there."""
        if "_table" in self.__dict__:
            return {}
        return {f"table.{name}": part for name, part in self.table.cut(axis, features).items()}

    def forward(self, tokens: Tensor) -> Tensor:
        try:
            return self._rows.decode(tokens.flatten()).view(*tokens.shape, -1)
        except RuntimeError:  # PyTorch's for an unknown row, where its own embedding raises IndexError
            if ((tokens < 0) | (tokens >= self.num_embeddings)).any():
                raise IndexError(f"of {self.num_embeddings} rows, there is none of some of these numbers") from None
            raise
