"""Array types with named axes; the only import of jaxtyping.

The same axis name means the same size within one signature. Tests check shapes at run time
(``--jaxtyping-packages=spam,beartype.beartype``); in use the annotations cost nothing.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Num, Shaped, UInt8, UInt64

__all__ = ["Array", "Bool", "Float", "Float32", "Float64", "Int", "Int64", "Num", "Shaped", "UInt8", "UInt64"]

Array: TypeAlias = np.ndarray
