"""What a room refused, in the words of the request: it may call a field by another name."""

import re
from collections.abc import Mapping
from dataclasses import replace

from usageflow.catalog.refusals import Refused


def reworded(refused: Refused, names: Mapping[str, str]) -> Refused:
    """With each part of the field that `names` knows called so: `charges[0].included`."""
    if refused.field is None:
        return refused
    field = re.sub(r"\w+", lambda part: names.get(part.group(), part.group()), refused.field)
    return replace(refused, field=field)
