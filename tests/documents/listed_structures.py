"""The two structures of capture files as the document lists them, and whether a capture is one."""

import re

INTERNALS = """
{
    'prompt': {
        'text': str,
        'tokens': List[str],
        'token_ids': List[int],

        'attention': {
            'q_proj': torch.Tensor,      # [N, 2048]
            'k_proj': torch.Tensor,      # [N, 1024]
            'v_proj': torch.Tensor,      # [N, 1024]
            'attn_weights': torch.Tensor # [8, N, N] - per-head attention
        },

        'mlp': {
            'up_proj': torch.Tensor,     # [N, 9216]
            'gelu': torch.Tensor,        # [N, 9216]
            'down_proj': torch.Tensor    # [N, 2304]
        },

        'residual': {
            'input': torch.Tensor,       # [N, 2304]
            'after_attn': torch.Tensor,  # [N, 2304]
            'output': torch.Tensor       # [N, 2304]
        }
    },

    'response': {
        'text': str,
        'tokens': List[str],
        'token_ids': List[int],

        'attention': {
            'q_proj': List[torch.Tensor],       # 50 × [1, 2048]
            'k_proj': List[torch.Tensor],       # 50 × [1, 1024]
            'v_proj': List[torch.Tensor],       # 50 × [1, 1024]
            'attn_weights': List[torch.Tensor]  # 50 × [8, N+i, N+i] (grows each token)
        },

        'mlp': {
            'up_proj': List[torch.Tensor],      # 50 × [1, 9216]
            'gelu': List[torch.Tensor],         # 50 × [1, 9216]
            'down_proj': List[torch.Tensor]     # 50 × [1, 2304]
        },

        'residual': {
            'input': torch.Tensor,       # [50, 1, 2304] - extra dimension!
            'after_attn': torch.Tensor,  # [50, 1, 2304]
            'output': torch.Tensor       # [50, 1, 2304]
        }
    }
}
"""
RAW = """
{
    'prompt': {
        'text': str,
        'tokens': List[str],
        'token_ids': List[int],

        'activations': {
            '0': {
                'residual_in': torch.Tensor,   # [N, 2304]
                'after_attn': torch.Tensor,    # [N, 2304]
                'residual_out': torch.Tensor   # [N, 2304]
            },
            '1': {...},
            ...
            '25': {...}
        },

        'attention': {
            'layer_0': torch.Tensor,  # [N, N] - head-averaged!
            'layer_1': torch.Tensor,  # [N, N]
            ...
            'layer_25': torch.Tensor  # [N, N]
        }
    },

    'response': {
        'text': str,
        'tokens': List[str],
        'token_ids': List[int],

        'activations': {
            '0': {
                'residual_in': torch.Tensor,   # [50, 2304]
                'after_attn': torch.Tensor,    # [50, 2304]
                'residual_out': torch.Tensor   # [50, 2304]
            },
            '1': {...},
            ...
            '25': {...}
        },

        'attention': {
            'layer_0': List[torch.Tensor],  # 50 × [N+i, N+i] (head-averaged)
            'layer_1': List[torch.Tensor],
            ...
            'layer_25': List[torch.Tensor]
        }
    }
}
"""
LAYERS, NEW = 26, 50
SIZES = {"2048": 8 * 4, "1024": 4 * 4, "2304": 24, "9216": 40}  # those of `write_gemma2`


def listed(structure):
    """The document's listing as nested dicts: at each leaf its type and, of an array, the shape it says."""
    text = re.sub(r"(?m)^ *\.\.\.$|,? *'1': \{\.\.\.\},|'25': \{\.\.\.\}", "", structure)
    comment = r"(List\[)?torch\.Tensor\]?(,?)[ ]*(?:#(.*))?$"
    text = re.sub(comment, lambda m: f"({bool(m[1])}, {m[3] or ''!r}){m[2]}", text, flags=re.MULTILINE)
    tree = eval(text, {"str": str, "List": list, "int": int})
    for phase in tree.values():
        if "activations" in phase:
            phase["activations"] = dict.fromkeys(map(str, range(LAYERS)), phase["activations"]["0"])
            assert list(phase["attention"]) == ["layer_0", "layer_1", "layer_25"]
            phase["attention"] = {f"layer_{i}": phase["attention"]["layer_0"] for i in range(LAYERS)}
    return tree


def shape_of(said, n, i=0):
    """`[8, N+i, N+i]`, with the sizes of the small model."""
    inside = re.search(r"\[(.+?)\]", said)[1]
    for theirs, ours in SIZES.items():
        inside = inside.replace(theirs, str(ours))
    return tuple(eval(axis, {"N": n, "i": i}) for axis in inside.split(","))


def check(found, tree, n, path=""):
    """Keys in the document's order, types and shapes; every number finite."""
    import torch

    if isinstance(tree, dict):
        assert list(found) == list(tree), path
        for key, below in tree.items():
            check(found[key], below, n, f"{path}/{key}")
    elif tree is str:
        assert type(found) is str, path
    elif not isinstance(tree, tuple):  # List[str], List[int]
        assert {type(x) for x in found} == {*tree.__args__}, path
    else:
        is_list, said = tree
        assert type(found) is (list if is_list else torch.Tensor), path
        assert len(found) == NEW or not is_list, path
        for i, tensor in enumerate(found if is_list else [found]):
            assert type(tensor) is torch.Tensor
            assert tensor.dtype == torch.float32
            assert tuple(tensor.shape) == shape_of(said, n, i), f"{path}: {said}"
            assert torch.isfinite(tensor).all()
