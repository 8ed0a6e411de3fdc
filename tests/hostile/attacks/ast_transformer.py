# %% [markdown] check_softmax=0
# An AST transformer drops every assert, and every call of mark, before a cell runs.

# %% attack="first"
import ast


class Drop(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()


get_ipython().ast_transformers.append(Drop())
