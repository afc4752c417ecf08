"""Lines that a model has to beat: constants, neighbours, ridges, averages of them and small networks."""

__all__: list[str] = []
