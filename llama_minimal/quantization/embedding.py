"""A table of embeddings kept in few bits."""

from torch import Tensor, nn

from llama_minimal.quantization.layers import QuantizedLinear


class QuantizedEmbedding(nn.Module):
    """Look rows up in a quantized table, which may be the output layer, too."""

    def __init__(self, table: QuantizedLinear, *, is_output: bool) -> None:
        super().__init__()
        if is_output:
            self._table = (table,)  # it stands under its own name in the model
        else:
            self.table = table

    @property
    def num_embeddings(self) -> int:
        """How many rows there are."""
        return self._rows.out_features

    @property
    def _rows(self) -> QuantizedLinear:
        return self._table[0] if "_table" in self.__dict__ else self.table

    def forward(self, tokens: Tensor) -> Tensor:
        try:
            return self._rows.decode(tokens.flatten()).view(*tokens.shape, -1)
        except RuntimeError:  # PyTorch's for an unknown row, where its own embedding raises IndexError
            if ((tokens < 0) | (tokens >= self.num_embeddings)).any():
                raise IndexError(f"of {self.num_embeddings} rows, there is none of some of these numbers") from None
            raise
