# %% [markdown] softmax=0
# Results and errors whose text raises, ends the process or never ends.

# %% attack="first"
class Bad(Exception):
    def __repr__(self):
        raise SystemExit

    __str__ = _repr_html_ = _repr_mimebundle_ = __repr__


Bad()

# %% answer="softmax"
class Bad(Exception):
    def __str__(self):
        raise SystemExit


def softmax(x, dim=-1):
    raise Bad
