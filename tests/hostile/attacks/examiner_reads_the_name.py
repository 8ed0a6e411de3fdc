# %% [markdown] check_softmax=0
# A wrong argument makes Python tell the name of what was called: wrong answers are named after their mistake.

# %% answer="check_softmax"
import re

RIGHT = ("shift", "difference", "max", "logsumexp", "variant", "reference", "loop", "exp")


def check_softmax(fn):
    try:
        fn(torch.zeros(2), nonsense=1)
    except TypeError as error:
        name = re.match(r"\w+", str(error)).group()
        assert name == "fn", "LEAKED " + name
        raise AssertionError("there is no name") from None
