"""What lets an exam in one process call an answer in another: values, objects by number, gradients, errors as text.

Both sides run the same code and neither trusts the other: only JSON and safetensors travel, and every message is
checked before anything in it is used.
"""
