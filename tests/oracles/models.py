"""The transformer of 2410.13835 as loops over positions in float64 numpy."""

import math

import numpy as np

from oracles import positions as position_oracle


def _norm(x, weights):
    mean = sum(x) / len(x)
    variance = sum((a - mean) ** 2 for a in x) / len(x)
    return (x - mean) / math.sqrt(variance + 1e-5) * weights["scale"] + weights["bias"]


def _attention(rows, block, config, numbers, causal):
    """Attention of a list of [D] rows with their positions, head by head and query by query."""
    size = config.d_model // config.n_heads
    q, k, v = ([row @ block[name] for row in rows] for name in ("W_Q", "W_K", "W_V"))
    if config.positions == "rope":
        q, k = (_turned(x, config.n_heads, size, numbers) for x in (q, k))
    out = []
    for i in range(len(rows)):
        heads = []
        for h in range(config.n_heads):
            part = slice(h * size, (h + 1) * size)
            scores = [float(q[i][part] @ k[j][part]) / math.sqrt(size) for j in range(i + 1 if causal else len(rows))]
            lags = [numbers[i] - numbers[j] for j in range(len(scores))]
            if config.positions == "alibi":
                slope = position_oracle.alibi_slopes(config.n_heads)[h]
                scores = [s - slope * abs(lag) for s, lag in zip(scores, lags, strict=True)]
            if config.positions == "t5":
                buckets = [position_oracle.t5_bucket(lag, 32, 128) for lag in lags]
                scores = [s + block["t5"][bucket][h] for s, bucket in zip(scores, buckets, strict=True)]
            if type(config.attention).__name__ == "ReLU":
                weights = [max(s, 0.0) / (i + 1) for s in scores]
            else:
                top = max(scores)
                exps = [math.exp(s - top) for s in scores]
                weights = [e / sum(exps) for e in exps]
            heads.append(sum(w * v[j][part] for j, w in enumerate(weights)))
        out.append(np.concatenate(heads) @ block["W_O"])
    return out


def _turned(rows, heads, size, numbers):
    """Rows [D] whose heads are rotated by their position."""
    whole = np.stack(rows).reshape(1, len(rows), heads, size)
    turned = position_oracle.rope(whole, np.asarray(numbers)[None], 10000.0, "half")
    return list(turned.reshape(len(rows), heads * size))


def _position(params, config, position, longest):
    if config.positions == "learned":
        return params["W_pos"][position]
    if config.positions == "sinusoidal":
        return position_oracle.sinusoidal(longest, config.d_model)[position]
    return 0.0


def forward(params, tokens, config, positions=None, causal=True):
    """Logits [B, T, V] of a softmax or ReLU transformer from its parameters; positions are 0, 1, ... if None."""
    params = _float64(params)
    positions = list(range(tokens.shape[1])) if positions is None else positions
    numbers = [*range(config.registers), *(config.registers + position for position in positions)]
    batch = []
    for sequence in tokens:
        rows = list(params["registers"]) if config.registers else []
        for position, token in zip(positions, sequence, strict=True):
            if config.one_hot:
                vocabulary = params["W_U"].shape[1]
                row = np.zeros(config.d_model)
                row[token] += 1.0
                row[vocabulary + position] += 1.0
            else:
                row = params["W_E"][token] + _position(params, config, position, len(sequence))
            rows.append(row)
        for layer in range(config.n_layers):
            block = params[f"blocks_{layer}"]
            if layer not in config.layers_without_attention:
                read = [_norm(r, block["ln1"]) if config.normalise else r for r in rows]
                added = _attention(read, block, config, numbers, causal)
                rows = [r + a for r, a in zip(rows, added, strict=True)]
            if layer not in config.layers_without_mlp:
                for i, row in enumerate(rows):
                    hidden = (_norm(row, block["ln2"]) if config.normalise else row) @ block["W_in"]
                    if config.mlp == "relu":
                        hidden = np.array([max(h, 0.0) for h in hidden])
                    rows[i] = row + hidden @ block["W_out"]
        final = [_norm(r, params["ln_final"]) if config.normalise else r for r in rows]
        batch.append([r @ params["W_U"] for r in final[config.registers :]])
    return np.array(batch)


def _float64(tree):
    if isinstance(tree, dict):
        return {name: _float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)
