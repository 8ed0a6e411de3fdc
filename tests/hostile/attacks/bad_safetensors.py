# %% [markdown]
# Bytes that are no safetensors, with a header that points past their end.

# %% attack="last"
import gc

from autograder.bridge.codec import Writer
from autograder.bridge.peer import Peer, TimeLimit

peer = next(each for each in gc.get_objects() if type(each) is Peer)
text = b'{"reply": 1, "tensors": [], "value": null}'
blob = (2**40).to_bytes(8, "little") + b"{}"
peer.channel.send(len(text).to_bytes(4, "big") + len(blob).to_bytes(4, "big") + text + blob)
