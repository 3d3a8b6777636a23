"""Laws of attention variants: what must be true of any row map or composite, given what it declares.

`check` tries all of them on a variant and prints a table; `parametrize` makes a pytest test of each.

>>> from jaxsink.attention import Softmax
>>> from theory import laws
>>> laws.LAWS[0].name
'masked-is-deleted'
>>> laws.LAWS[0].verify(Softmax(), examples=1).status
'holds'
"""

from theory.laws.check import LAWS as LAWS
from theory.laws.check import Report as Report
from theory.laws.check import check as check
from theory.laws.check import parametrize as parametrize
from theory.laws.example import SHAPES as SHAPES
from theory.laws.example import Example as Example
from theory.laws.example import draw as draw
from theory.laws.example import shapes as shapes
from theory.laws.finding import F32 as F32
from theory.laws.finding import Finding as Finding
from theory.laws.finding import close as close
from theory.laws.finding import finite as finite
from theory.laws.law import Law as Law
from theory.laws.law import LawBroken as LawBroken
from theory.laws.law import Outcome as Outcome
