# %% [markdown] softmax=0 log_softmax=0 check_softmax=0
# Services that never fail raise: the exam breaks off, and looks as if it were broken itself.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
def fails(**_):
    raise ValueError("forged \x1b[31m \ud800")


for service in ("begin", "default_dtype", "named_in_code", "helpers"):
    peer.services[service] = fails
