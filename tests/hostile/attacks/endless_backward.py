# %% [markdown] softmax=0
# An answer whose backward pass never ends.

# %% answer="softmax"
class Endless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        while True:
            pass


def softmax(x, dim=-1):
    e = torch.exp(Endless.apply(x))
    return e / e.sum(dim, keepdim=True)
