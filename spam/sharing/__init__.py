"""What is done with whole stores: looking into them, checking, comparing, copying, packing and sharing them."""

__all__: list[str] = []
