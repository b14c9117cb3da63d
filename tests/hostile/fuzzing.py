"""Random values beside the corpus; ``make fuzz EXAMPLES=10000`` draws more of them."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from tests.hostile.corpus import NUMBERS, OBJECTS, TEXTS, TIMES

#: How many values each of these tests draws.
EXAMPLES = int(os.environ.get("RUNLANE_FUZZ_EXAMPLES", "30"))

texts = st.sampled_from([text for text in TEXTS.values() if len(text) < 5000]) | st.text(st.characters(), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=3)
    | st.sampled_from(list(NUMBERS)).map(lambda name: NUMBERS[name])
)
#: JSON, and what is nearly JSON.
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.integers(), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=10,
)
#: What is without bounds as text, as which Hypothesis would show it, or good for one use.
_NOT_DRAWN = ("a choir", "a generator", "laughs")
#: What nobody would pass on purpose.
junk = (
    anything
    | st.sampled_from(list(TIMES)).map(lambda name: TIMES[name])
    | st.sampled_from([name for name in OBJECTS if name not in _NOT_DRAWN]).map(lambda name: OBJECTS[name]())
)
