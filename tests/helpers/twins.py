"""Each detector again, in a few lines of numpy and float64, written from its paper's equation."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_ndtr
from scipy.stats import rankdata


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def msp(h, z, train, head, **_):
    return softmax(z).max(1)


def mls(h, z, train, head, **_):
    return z.max(1)


def ebo(h, z, train, head, temperature, **_):
    m = z.max(1)
    return m + temperature * np.log(np.exp((z - m[:, None]) / temperature).sum(1))


def pscore(h, z, train, head, **_):
    w = head[0][z.argmax(1)]
    centred = h - train.mean(0)
    return (w * centred).sum(1) / np.linalg.norm(centred, axis=1)


def nci(h, z, train, head, alpha, **_):
    return pscore(h, z, train, head) + alpha * np.abs(h).sum(1)


def nci_l2(h, z, train, head, alpha, **_):
    return pscore(h, z, train, head) + alpha * np.linalg.norm(h, axis=1)


def nci_auto(h, z, train, head, alpha, validation, **_):
    if alpha != "auto":
        return nci(h, z, train, head, alpha)
    v, logits = validation
    generator = torch.Generator().manual_seed(0)
    rounds = [torch.randperm(len(v), generator=generator).numpy() for _ in range(-(-20_000 // len(v)))]
    one, other = np.tile(np.arange(len(v)), len(rounds)), np.concatenate(rounds)
    apart = logits.argmax(1)[one] != logits.argmax(1)[other]
    between = [(rows[one] + rows[other])[apart] / 2 for rows in (v, logits)]
    n = np.abs(v).sum(1)
    norms = [n, (n[one] + n[other])[apart] / 2]
    grid = [0, *np.logspace(-3, 1, 17) * pscore(v, logits, train, head).std() / np.abs(v).sum(1).std()]

    def area(a):
        above = (pscore(v, logits, train, head) + a * norms[0])[:, None]
        above = above - (pscore(*between, train, head) + a * norms[1])
        return (above > 0).mean() + (above == 0).mean() / 2

    return nci(h, z, train, head, grid[np.argmax([area(a) for a in grid])])


def nci_plus(h, z, train, head, **_):
    w, b = head

    def terms(h, z):
        return np.stack([pscore(h, z, train, head), np.abs(h).sum(1)], axis=1)

    logits = train @ w.T + b
    t, c = terms(train, logits), logits.argmax(1)
    n = np.bincount(c, minlength=len(b))[:, None]
    mean = np.stack([t[c == k].mean(0) if (c == k).any() else t.mean(0) for k in range(len(b))])
    variance = ((t - mean[c]) ** 2).mean(0)
    spread = np.maximum(((mean - t.mean(0)) ** 2)[n[:, 0] > 0].mean(0) - variance * (1 / n[n > 0]).mean(), 0)
    mean = t.mean(0) + (mean - t.mean(0)) * n * spread / (n * spread + variance)
    u = (terms(h, z) - mean[z.argmax(1)])[:, 0] / np.sqrt(variance[0])
    v = (np.abs(h).sum(1) - t[:, 1].mean()) / t[:, 1].std()
    return u - np.log1p(np.exp(-v - 0.5))


def feature_norm(h, z, train, head, norm, **_):
    return np.linalg.norm(h, {"l1": 1, "l2": 2, "linf": np.inf}[norm], axis=1)


def knn(h, z, train, head, K, **_):
    distances = np.linalg.norm(unit(h)[:, None] - unit(train)[None], axis=2)
    return -np.sort(distances, axis=1)[:, K - 1]


def knn_l1(h, z, train, head, K, alpha, **_):
    return knn(h, z, train, head, K) + alpha * np.abs(h).sum(1)


def neco(h, z, train, head, dim, scale, max_logit, raw_norm, **_):
    mean, deviation = train.mean(0), train.std(0) if scale else 1.0
    deviation = np.where(deviation > 0, deviation, 1.0)
    scaled_train, v = (train - mean) / deviation, (h - mean) / deviation
    _, s, components = np.linalg.svd(scaled_train, full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    d = dim if isinstance(dim, int) else int(np.searchsorted(share, dim) + 1)
    raw = not scale if raw_norm == "auto" else raw_norm
    score = np.linalg.norm(v @ components[:d].T, axis=1) / np.linalg.norm(h if raw else v, axis=1)
    return score * z.max(1) if max_logit in (True, "auto") else score  # the toy network is no ResNet


def class_means(train, labels):
    return np.stack([train[labels == k].mean(0) for k in np.unique(labels)])


def squared_distance(offset, covariance):
    return np.einsum("ij,jk,ik->i", offset, np.linalg.pinv(covariance, hermitian=True), offset)


def nc1(h, z, train, head, labels, **_):
    mu = class_means(train, labels)
    covariance = np.cov((train - mu[labels]).T, bias=True)
    return -np.sqrt(squared_distance(h - mu[z.argmax(1)], covariance))


def nc2(h, z, train, head, labels, **_):
    mu = class_means(train, labels)
    span, centred = (mu[1:] - mu[0]).T, h - mu.mean(0)  # the span of the centred means, without a dependent column
    inside = centred @ span @ np.linalg.pinv(span)
    return np.linalg.norm(inside, axis=1) / np.linalg.norm(centred, axis=1)


def nc3(h, z, train, head, labels, **_):
    centred, w = h - class_means(train, labels).mean(0), head[0][z.argmax(1)]
    return (centred * w).sum(1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(w, axis=1)


def nc4(h, z, train, head, labels, **_):
    distances = np.linalg.norm(h[:, None] - class_means(train, labels), axis=2)
    own = np.arange(distances.shape[1]) == z.argmax(1)[:, None]
    return np.where(own, np.inf, distances).min(1) - distances[own]


nc5 = neco


def mds_pp(h, z, train, head, labels, **_):
    f, train = unit(h), unit(train)
    mu = class_means(train, labels)
    covariance = np.cov((train - mu[labels]).T, bias=True)
    return -np.min([squared_distance(f - mean, covariance) for mean in mu], axis=0)


def rmds_pp(h, z, train, head, labels, **_):
    f, train_f = unit(h), unit(train)
    background = squared_distance(f - train_f.mean(0), np.cov(train_f.T, bias=True))
    return mds_pp(h, z, train, head, labels) + background


def ora(h, z, train, head, **_):
    w, mean, scores = head[0], train.mean(0), []
    for feature, logits in zip(h, z):
        c, angles = logits.argmax(), []
        for k in range(len(w)):
            if k != c:
                normal = w[c] - w[k]
                projection = feature - (logits[c] - logits[k]) / (normal @ normal) * normal
                a, b = feature - mean, projection - mean
                angles.append(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))
        scores.append(max(angles))
    return np.array(scores)


def oas(scatter, freedom):
    p = len(scatter)
    s = scatter / freedom
    tr, tr2 = np.trace(s), np.trace(s @ s)
    rho = min(1, ((1 - 2 / p) * tr2 + tr**2) / ((freedom + 1 - 2 / p) * (tr2 - tr**2 / p)))
    return (1 - rho) * s + rho * tr / p * np.eye(p), (1 - rho) / freedom


def directions(train, labels, w, validation=None):
    k = np.arange(len(w))
    n = np.bincount(labels, minlength=len(w))
    mu = class_means(train, labels)  # the toy has samples of every class
    m, residuals, freedom = mu - train.mean(0), train - mu[labels], len(train) - len(w)
    if validation is not None:
        v, c = validation
        residuals = np.concatenate([residuals, (v - mu[c]) / np.sqrt(1 + 1 / n[c])[:, None]])
        freedom += len(v)
    sigma, share = oas(residuals.T @ residuals, freedom)
    a = np.sum(n * (m * w).sum(1)) / np.sum(n * np.einsum("ki,ij,kj->k", w, sigma, w))
    d = np.zeros_like(m)
    left = m - a * w @ sigma
    t = max(0, np.mean(squared_distance(left, sigma)) / train.shape[1] - np.mean(1 / n))
    for c in k:
        d[c] = a * sigma @ w[c] + t * n[c] / (t * n[c] + 1) * left[c]
    left_out = [np.linalg.inv(sigma - share * np.outer(r, r)) for r in residuals[len(train) :]]
    return d, np.linalg.inv(sigma), left_out


def whitened_cosine(h, z, train, head, labels, **_):
    d, metric, _ = directions(train, labels, head[0])
    d, offset = d[z.argmax(1)], h - train.mean(0)
    inner = np.einsum("ni,ij,nj->n", offset, metric, d)
    return inner / np.sqrt(squared_distance(offset, np.linalg.inv(metric)) * np.einsum("ni,ij,nj->n", d, metric, d))


def whitened_cosine_pp(h, z, train, head, labels, **_):
    return whitened_cosine(unit(h), z, unit(train), head, labels)


def nci_gated(h, z, train, head, labels, validation, **_):
    v, logits = validation
    mu = unit(train).mean(0)
    d, metric, left_out = directions(unit(train), labels, head[0], (unit(v), logits.argmax(1)))

    def terms(h, c, metric):
        w, offset = head[0][c], unit(h[None])[0] - mu
        cosine = offset @ metric @ d[c] / np.sqrt(offset @ metric @ offset * (d[c] @ metric @ d[c]))
        p = w @ (h - v.mean(0)) / np.linalg.norm(h - v.mean(0))
        return p, cosine, -(offset - d[c]) @ metric @ (offset - d[c])

    t = np.array([terms(*sample) for sample in zip(v, logits.argmax(1), left_out)])
    s = np.array([terms(*sample, metric) for sample in zip(h, z.argmax(1))])
    p = log_ndtr((s - t.mean(0)) / t.std(0, ddof=1))
    return p[:, :2].mean(1) + np.minimum(0, p[:, 2] - np.log(0.05))


def gen(h, z, train, head, gamma, M, **_):
    p = np.sort(softmax(z), axis=1)[:, -M:]
    return -(p**gamma * (1 - p) ** gamma).sum(1)


def energy(z):
    return ebo(None, z, None, None, 1.0)


def fdbd(h, z, train, head, distance_as_normalizer, **_):
    w, c = head[0], z.argmax(1)
    scores = []
    for i, feature in enumerate(h):
        boundaries = [(z[i, c[i]] - z[i, k]) / np.linalg.norm(w[c[i]] - w[k]) for k in range(len(w)) if k != c[i]]
        scores.append(sum(boundaries) / np.linalg.norm(feature - train.mean(0) * distance_as_normalizer))
    return np.array(scores)


def react(h, z, train, head, percentile, validation, **_):
    return energy(np.minimum(h, np.percentile(validation[0], percentile)) @ head[0].T + head[1])


def scale(h, z, train, head, percentile, **_):
    kept = h.shape[1] - round(h.shape[1] * percentile / 100)
    r = h.sum(1) / np.sort(h, axis=1)[:, -kept:].sum(1)
    return energy(h * np.exp(r)[:, None] @ head[0].T + head[1])


def dice(h, z, train, head, p, **_):
    contribution = head[0] * train.mean(0)
    return energy(h @ (head[0] * (contribution > np.percentile(contribution, p))).T + head[1])


def klm(h, z, train, head, validation, **_):
    p, q, c = softmax(z), softmax(validation[1]), validation[1].argmax(1)
    means = [q[c == k].mean(0) for k in np.unique(c)]
    return -np.min([(p * np.log(p / mean)).sum(1) for mean in means], axis=0)


def nnguide(h, z, train, head, K, alpha, **_):
    first = train[: max(K, int(np.ceil(alpha * len(train))))]
    guides = unit(first) * energy(first @ head[0].T + head[1])[:, None]
    return np.sort(unit(h) @ guides.T, axis=1)[:, -K:].mean(1) * energy(z)


def vim(h, z, train, head, dim, **_):
    w, b = head
    u = -np.linalg.pinv(w, rcond=1e-6) @ b
    dim = w.shape[1] // 2 if dim == "auto" else dim
    residual = np.linalg.svd(train - u)[2][dim:].T
    alpha = (train @ w.T + b).max(1).mean() / np.linalg.norm((train - u) @ residual, axis=1).mean()
    return energy(z) - alpha * np.linalg.norm((h - u) @ residual, axis=1)


def caref(h, z, train, head, **_):
    c = (train @ head[0].T + head[1]).argmax(1)
    mu = np.stack([train[c == k].mean(0) for k in range(len(head[0]))])  # the toy predicts every class
    return -np.abs(h - mu[z.argmax(1)]).sum(1) / np.abs(h).sum(1)


def cadref(h, z, train, head, **_):
    logits = train @ head[0].T + head[1]
    mu = np.stack([train[logits.argmax(1) == k].mean(0) for k in range(len(head[0]))])
    along = (h - mu[z.argmax(1)]) * np.sign(head[0][z.argmax(1)]) / np.abs(h).sum(1, keepdims=True)
    floor = np.finfo(np.float32).eps * energy(logits).mean()
    positive, negative = np.maximum(along, 0).sum(1), np.maximum(-along, 0).sum(1)
    return -positive / np.maximum(energy(z), floor) - negative / energy(logits).mean()


def ras(h, z, train, head, **_):
    profile, scores = np.sort(train, axis=1).mean(0), []
    for row in h:
        ranks = rankdata(row, "ordinal") - 1
        shifted = np.array([profile[ranks[row == number]].mean() for number in row])
        scores.append(shifted @ head[0].T + head[1])
    return energy(np.array(scores))


def pscore_data_free(h, z, train, head, **_):
    w, b = head
    q = np.eye(len(w)) - 1 / len(w)
    centred = h + np.linalg.pinv(w.T @ q @ w, rcond=1e-12) @ w.T @ q @ b
    return (w[z.argmax(1)] * centred).sum(1) / np.linalg.norm(centred, axis=1)


def mds_radial(h, z, train, head, labels, exponent, **_):
    def radial(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True) ** exponent

    f, t = radial(h), radial(train)
    mu = class_means(t, labels)
    covariance = np.cov((t - mu[labels]).T, bias=True)
    return -np.min([squared_distance(f - mean, covariance) for mean in mu], axis=0)
