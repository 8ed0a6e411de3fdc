# %% [markdown] softmax=0 log_softmax=0 check_softmax=0
# Every cell and every note fails with the time limit, from the first cell on.

# %% attack="first"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
def late(**_):
    raise TimeLimit("forged")


for service in ("cell", "note", "answer"):
    peer.services[service] = late
