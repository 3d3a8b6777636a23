"""Decoders of the Llama family and encoders of the BERT family as loops over positions in float64 numpy."""

import math

import numpy as np

from oracles import positions as position_oracle


def _float64(tree):
    if isinstance(tree, dict):
        return {name: _float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def _rms(x, scale, eps):
    return x / math.sqrt(sum(a * a for a in x) / len(x) + eps) * scale


def _centred(x, norm, eps):
    mean = sum(x) / len(x)
    variance = sum((a - mean) ** 2 for a in x) / len(x)
    return (x - mean) / math.sqrt(variance + eps) * norm["scale"] + norm["bias"]


def _biased(row, block, weight, bias):
    out = row @ block[weight]
    return out + block[bias] if bias in block else out


def _gelu(x):
    return np.array([a * 0.5 * (1 + math.erf(a / math.sqrt(2))) for a in x])


def _silu(x):
    return np.array([a / (1 + math.exp(-a)) for a in x])


def weights_of(q, k, sees):
    """Softmax weights [N, T, S] of q [T, N, H] and k [S, K, H]; a query that sees no key has none."""
    length, heads, size = q.shape
    weights = np.zeros((heads, length, len(k)))
    for n in range(heads):
        for i in range(length):
            keys = [j for j in range(len(k)) if sees(i, j)]
            exps = [math.exp(float(q[i, n] @ k[j, n * k.shape[1] // heads]) / math.sqrt(size)) for j in keys]
            for j, e in zip(keys, exps, strict=True):
                weights[n, i, j] = e / sum(exps)
    return weights


def _attention(rows, block, config, key_heads, sees, turned):
    size = config.head_size
    q, k, v = (
        np.stack([_biased(row, block, f"W_{x}", f"b_{x}") for row in rows]).reshape(len(rows), -1, size) for x in "QKV"
    )
    weights = weights_of(turned(q), turned(k), sees)
    out = np.zeros(q.shape)
    for n in range(config.n_heads):
        for i in range(len(rows)):
            for j in range(len(rows)):
                out[i, n] += weights[n, i, j] * v[j, n * key_heads // config.n_heads]
    return [_biased(row, block, "W_O", "b_O") for row in out.reshape(len(rows), -1)]


def _scaled(scaling):
    match type(scaling).__name__:
        case "LinearScaling":
            return lambda f: position_oracle.linear(f, scaling.factor)
        case "Llama3Scaling":
            s = scaling
            return lambda f: position_oracle.llama3(
                f, s.factor, s.low_freq_factor, s.high_freq_factor, s.original_max_position
            )
    return lambda f: f


def decoder(params, tokens, config, valid=None, positions=None):
    """Logits [B, T, V]."""
    params = _float64(params)
    tokens = np.asarray(tokens)
    valid = np.ones(tokens.shape, bool) if valid is None else np.asarray(valid)
    where = np.broadcast_to(np.arange(tokens.shape[1]) if positions is None else np.asarray(positions), tokens.shape)
    out = []
    for b, sequence in enumerate(tokens):

        def turned(x, b=b):
            scaled = _scaled(config.rope_scaling)
            return position_oracle.rope(x[None], where[b : b + 1], config.rope_base, config.rope_pairing, scaled)[0]

        def sees(i, j, b=b):
            return j <= i and valid[b, i] and valid[b, j]

        rows = [params["W_E"][token] for token in sequence]
        for layer in range(config.n_layers):
            block = params[f"blocks_{layer}"]
            read = [_rms(row, block["ln1"]["scale"], config.norm_eps) for row in rows]
            added = _attention(read, block, config, config.n_key_heads, sees, turned)
            rows = [row + more for row, more in zip(rows, added, strict=True)]
            for i, row in enumerate(rows):
                read = _rms(row, block["ln2"]["scale"], config.norm_eps)
                rows[i] = row + (_silu(read @ block["W_gate"]) * (read @ block["W_in"])) @ block["W_out"]
        unembed = params["W_E"].T if config.tied else params["W_U"]
        out.append([_rms(row, params["ln_final"]["scale"], config.norm_eps) @ unembed for row in rows])
    return np.array(out)


def encoder(params, tokens, config, valid=None, positions=None, token_types=None):
    """Logits [B, T, V], or the last hidden states [B, T, D], and what the pooler makes of them [B, D] or None."""
    params = _float64(params)
    tokens = np.asarray(tokens)
    valid = np.ones(tokens.shape, bool) if valid is None else np.asarray(valid)
    where = np.broadcast_to(np.arange(tokens.shape[1]) if positions is None else np.asarray(positions), tokens.shape)
    types = np.zeros(tokens.shape, int) if token_types is None else np.asarray(token_types)
    eps, out, pooled = config.norm_eps, [], []
    for b, sequence in enumerate(tokens):

        def sees(i, j, b=b):
            return valid[b, i] and valid[b, j]

        rows = [
            _centred(
                params["W_E"][token] + params["W_pos"][where[b, t]] + params["W_type"][types[b, t]],
                params["ln_embed"],
                eps,
            )
            for t, token in enumerate(sequence)
        ]
        for layer in range(config.n_layers):
            block = params[f"blocks_{layer}"]
            added = _attention(rows, block, config, config.n_heads, sees, lambda x: x)
            rows = [_centred(row + more, block["ln1"], eps) for row, more in zip(rows, added, strict=True)]
            for i, row in enumerate(rows):
                hidden = _gelu(row @ block["W_in"] + block["b_in"])
                rows[i] = _centred(row + hidden @ block["W_out"] + block["b_out"], block["ln2"], eps)
        if config.pooler:
            first = rows[0] @ params["pooler"]["W"] + params["pooler"]["b"]
            pooled.append([math.tanh(a) for a in first])
        if config.mlm_head:
            head = params["mlm"]
            rows = [
                _centred(_gelu(row @ head["W"] + head["b"]), head["ln"], eps) @ params["W_E"].T + head["bias"]
                for row in rows
            ]
        out.append(rows)
    return np.array(out), np.array(pooled) if config.pooler else None
