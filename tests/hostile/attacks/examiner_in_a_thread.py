# %% [markdown] check_softmax="any"
# Calls what it is lent from four threads at once, on one channel.

# %% answer="check_softmax"
import threading


def check_softmax(fn):
    threads = [threading.Thread(target=fn, args=(torch.zeros(2),), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
