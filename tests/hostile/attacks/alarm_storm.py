# %% [markdown] softmax="any" log_softmax="any" check_softmax="any"
# A thread sends the signal of the time limit all the time: it ends whatever runs, the answering of questions too.

# %% attack="last"
import os
import signal
import threading
import time


def storm():
    while True:
        os.kill(os.getpid(), signal.SIGALRM)
        time.sleep(0.0005)


threading.Thread(target=storm, daemon=True).start()
