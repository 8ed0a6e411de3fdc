# %% [markdown]
# Sends the notebook away: by the network, to a name server, to the machine's own services, to a virtual machine's
# host.

# %% attack="first"
import socket

for family, address in (
    (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET, ("127.0.0.1", 22)), (socket.AF_INET, ("169.254.169.254", 80)),
):
    try:
        with socket.socket(family) as connection:
            connection.settimeout(0.2)
            connection.connect(address)
            print("LEAKED", address)
    except OSError:
        pass
for family in (socket.AF_VSOCK, socket.AF_ALG, socket.AF_PACKET):
    try:
        with socket.socket(family, socket.SOCK_SEQPACKET if family == socket.AF_ALG else socket.SOCK_STREAM):
            print("LEAKED", family)
    except OSError:
        pass
