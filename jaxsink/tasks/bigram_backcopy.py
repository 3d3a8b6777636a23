"""The Bigram-Backcopy task (2410.13835, section 2): a Markov chain that copies at trigger tokens."""

import operator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import one_hot
from jax.typing import ArrayLike

from jaxsink.tasks import inverse_cdf
from jaxsink.tasks.chains import BigramChain

Rule = Literal["backcopy", "backward"]
LastTwo = tuple[jax.Array, jax.Array]


@dataclass(frozen=True)
class BigramBackcopy:
    """Bigram-Backcopy sequences over a chain, their exact law, and where the copy rule applies.

    The tokens are the V characters, 0..V-1, and the start token `<s>`, V, which is never emitted. A sequence:
    - `starts` start tokens;
    - a first character from the marginal of the chain without the triggers, renormalised;
    - after a trigger x_t, with probability `copy_probability`: x_{t-1} again (rule "backcopy"), or a
      character from P[x_{t-1}], the row one step back (rule "backward");
    - otherwise a character from P[x_t].

    With rule "backcopy" and copy probability one, triggers are never adjacent and stand between equal tokens.

    Leave the start positions (`tokens == start_id`) out of every risk. With starts = 1 that is position 0:
    what follows it is the first character, whose law is the marginal without triggers and no row of P. With
    starts = 2 it is positions 0 and 1: the second start is certain, and the first character follows it. With
    starts = 0 every position holds a character and counts.

    A task is hashable and equal to another with equal fields, so it can be a static argument of jit.

    Args:
        chain: the chain of the characters.
        triggers: the trigger tokens, each at most once; () is the pure Markov chain.
        starts: how many start tokens open a sequence: 0, 1 or 2.
        copy_probability: how often the rule applies at a trigger, from 0 (pure Markov) to 1.
        rule: "backcopy" copies x_{t-1}; "backward" draws from the transition row of x_{t-1}.

    Raises:
        ValueError: a field is out of range, or no character is left that is not a trigger.

    Source: 2410.13835, section 2; the first character as in its authors' code.
    """

    chain: BigramChain
    triggers: tuple[int, ...]
    starts: int = 1
    copy_probability: float = 1.0
    rule: Rule = "backcopy"

    def __post_init__(self) -> None:
        size = self.chain.size
        object.__setattr__(self, "triggers", tuple(map(operator.index, self.triggers)))
        valid = set(self.triggers) & set(range(size))
        if len(valid) < len(self.triggers):
            raise ValueError(
                f"triggers must be distinct tokens from 0 to {size - 1}, but {self.triggers} came: "
                "give the token of each trigger character once."
            )
        if len(self.triggers) >= size:
            raise ValueError(
                f"triggers must leave at least one of the {size} characters to start from, but there are "
                f"{len(self.triggers)}: choose fewer triggers or a chain with more characters."
            )
        if not isinstance(self.starts, int) or not 0 <= self.starts <= 2:
            raise ValueError(f"starts must be 0, 1 or 2, but {self.starts!r} came: the paper has 1.")
        if not 0.0 <= self.copy_probability <= 1.0:
            raise ValueError(
                f"copy_probability must be from 0 to 1, but {self.copy_probability} came: 1 always copies at a trigger."
            )
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule must be one of {get_args(Rule)}, but {self.rule!r} came: choose one.")

    @classmethod
    def make(
        cls,
        chain: BigramChain,
        k: int = 3,
        *,
        starts: int = 1,
        copy_probability: float = 1.0,
        rule: Rule = "backcopy",
    ) -> "BigramBackcopy":
        """The task whose triggers are the k most frequent characters of the chain, of equals the earlier.

        Args:
            chain: the chain of the characters.
            k: number of triggers, from 0 (pure Markov) to one less than the number of characters.
            starts: as in the class.
            copy_probability: as in the class.
            rule: as in the class.

        Returns:
            The task.

        Raises:
            ValueError: an argument is out of range.

        Source: 2410.13835, section 2 (k = 3: space, e, t; k = 5 adds a and o).

        >>> from jaxsink.tasks import shakespeare
        >>> chain = shakespeare()
        >>> [chain.characters[trigger] for trigger in BigramBackcopy.make(chain).triggers]
        [' ', 'e', 't']
        """
        if not 0 <= k < chain.size:
            raise ValueError(
                f"k must be from 0 to {chain.size - 1}, so that a character is left to start from, but {k} "
                "came: choose fewer triggers or a chain with more characters."
            )
        frequent_first = np.argsort(-chain.marginal, kind="stable")
        triggers = tuple(frequent_first[:k].tolist())
        return cls(chain, triggers, starts, copy_probability, rule)

    @property
    def vocab_size(self) -> int:
        """V + 1: the characters and the start token."""
        return self.chain.size + 1

    @property
    def start_id(self) -> int:
        """V: the start token, never emitted after the start."""
        return self.chain.size

    @property
    def n_ordinary(self) -> int:
        """Number of characters that are not triggers."""
        return self.chain.size - len(self.triggers)

    def sample(self, key: jax.Array, batch: int, length: int) -> jax.Array:
        """Independent sequences; pure, on the device, usable under jit, vmap and scan.

        Args:
            key: a PRNG key.
            batch: number of sequences B.
            length: number of input positions T.

        Returns:
            int32[B, T+1]: inputs are [:, :-1] and targets [:, 1:].

        Raises:
            ValueError: batch is less than one, or length leaves no room for a character.

        Source: 2410.13835, section 2.
        """
        return self.sample_many(key[None], batch, length)[0]

    def sample_many(self, keys: jax.Array, batch: int, length: int) -> jax.Array:
        """Batches for many keys in one pass over time: bit for bit the stack of each key's `sample`.

        Args:
            keys: C PRNG keys.
            batch: number of sequences per key B.
            length: number of input positions T.

        Returns:
            int32[C, B, T+1].

        Raises:
            ValueError: batch is less than one, or length leaves no room for a character.

        Source: 2410.13835, section 2.
        """
        self._check_size(batch, length)
        return _sequences(self, False, batch, length, keys)

    def trigger_free(self, key: jax.Array, batch: int, length: int) -> jax.Array:
        """Sequences of the chain restricted to the non-trigger characters, renormalised: for probing.

        A character that only triggers ever follow is followed by a draw from the law of the first character.

        Args:
            key: a PRNG key.
            batch: number of sequences B.
            length: number of input positions T.

        Returns:
            int32[B, T+1], opened by `starts` start tokens like `sample`.

        Raises:
            ValueError: batch is less than one, or length leaves no room for a character.

        Source: 2410.13835, section 2 (sequences without triggers, on which the head is dormant throughout).
        """
        self._check_size(batch, length)
        return _sequences(self, True, batch, length, key[None])[0]

    def is_trigger(self, tokens: ArrayLike) -> jax.Array:
        """Where the rule applies: trigger tokens with a predecessor that is a character.

        Args:
            tokens: int[B, T] sequences from their first position on.

        Returns:
            bool[B, T]; it does not depend on the copy probability.

        Source: 2410.13835, section 2.
        """
        return _is_trigger(self, jnp.asarray(tokens))

    def law(self, tokens: ArrayLike) -> jax.Array:
        """The exact law of the next token given each prefix, also after prefixes that the task never emits.

        Args:
            tokens: int[B, T] sequences from their first position on, start tokens included.

        Returns:
            float[B, T, V+1], rows sum to one; tables are computed in float64 and used in JAX's default float
            (float64 if enabled, else float32).

        Source: 2410.13835, section 2.
        """
        return _law(self, jnp.asarray(tokens))

    def entropy(self, tokens: ArrayLike) -> jax.Array:
        """Entropy of `law` in nats: the least cross-entropy that any model reaches at each position.

        Args:
            tokens: int[B, T] sequences from their first position on, start tokens included.

        Returns:
            float[B, T], computed in float64 and given in JAX's default float.

        Source: 2410.13835, section 2 (the oracle risk).
        """
        return _entropy(self, jnp.asarray(tokens))

    def _check_size(self, batch: int, length: int) -> None:
        if batch < 1:
            raise ValueError(f"batch must be 1 or more, but {batch} came: ask for at least one sequence.")
        least = max(1, self.starts)
        if length < least:
            raise ValueError(
                f"length must be {least} or more with {self.starts} start tokens, but {length} came: "
                "ask for longer sequences."
            )

    @cached_property
    def _ordinary(self) -> np.ndarray:
        """bool[V]: the characters that are not triggers."""
        ordinary = np.ones(self.chain.size, np.bool_)
        ordinary[list(self.triggers)] = False
        return ordinary

    @cached_property
    def _rows(self) -> np.ndarray:
        """float64[V+1, V]: the transition rows, and the law of the first character as that of the start."""
        return np.concatenate([self.chain.transition, self._first[None]])

    @cached_property
    def _first(self) -> np.ndarray:
        """float64[V]: the law of the first character."""
        ordinary = self.chain.marginal * self._ordinary
        return ordinary / ordinary.sum()

    @cached_property
    def _thresholds(self) -> np.ndarray:
        return inverse_cdf.thresholds(self._rows)

    @cached_property
    def _trigger_free_thresholds(self) -> np.ndarray:
        rows = self._rows * self._ordinary
        return inverse_cdf.thresholds(np.where(rows.sum(1, keepdims=True) > 0, rows, self._first))

    @cached_property
    def _entropies(self) -> np.ndarray:
        """float64[V+1, V+1]: entropy of the law after each pair of last but one and last token."""
        size = self.chain.size
        table = np.tile(_entropy_of(self._rows), (size + 1, 1))
        other = np.eye(size) if self.rule == "backcopy" else self.chain.transition
        applied = self.copy_probability
        for trigger in self.triggers:
            mixed = applied * other + (1.0 - applied) * self.chain.transition[trigger]
            table[:size, trigger] = _entropy_of(mixed)
        return table


def _entropy_of(probabilities: np.ndarray) -> np.ndarray:
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.maximum(0.0, -(probabilities * logs).sum(-1))  # no -0.0 for a certain outcome


def _previous(task: BigramBackcopy, tokens: jax.Array) -> jax.Array:
    before = jnp.full_like(tokens[..., :1], task.start_id)
    return jnp.concatenate([before, tokens[..., :-1]], axis=-1)


def _certain_start(task: BigramBackcopy, tokens: jax.Array) -> jax.Array:
    """bool[T]: positions whose next token is another start token."""
    return jnp.arange(tokens.shape[-1]) < task.starts - 1


def _trigger_table(task: BigramBackcopy) -> jax.Array:
    return jnp.asarray(np.append(~task._ordinary, False))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sequences(task: BigramBackcopy, trigger_free: bool, batch: int, length: int, keys: jax.Array) -> jax.Array:
    chunk = keys.shape[0]
    steps = length + 1 - task.starts
    coins = 0.0 < task.copy_probability < 1.0
    # Not vmap: the bits of a key are then the same alone and among others with every PRNG implementation.
    bits = jax.lax.map(lambda key: jax.random.bits(key, (steps, 2 if coins else 1, batch), jnp.uint32), keys)
    bits = jnp.moveaxis(bits, 0, 2).reshape(steps, -1, chunk * batch)
    table = jnp.asarray(task._trigger_free_thresholds if trigger_free else task._thresholds)
    triggers = _trigger_table(task)

    def step(last_two: LastTwo, bits: jax.Array) -> tuple[LastTwo, jax.Array]:
        previous, current = last_two
        applies = triggers[current]
        if coins:
            applies = applies & inverse_cdf.happens(task.copy_probability, bits[1])
        if task.copy_probability == 0.0:
            following = inverse_cdf.draw(table, current, bits[0])
        elif task.rule == "backward":
            following = inverse_cdf.draw(table, jnp.where(applies, previous, current), bits[0])
        else:
            following = jnp.where(applies, previous, inverse_cdf.draw(table, current, bits[0]))
        return (current, following), following

    # The first character is drawn from the row of the start token, also when no start is emitted.
    start = jnp.full((chunk * batch,), task.start_id, jnp.int32)
    # A step is a handful of tiny operations: several in one pass halve the time on a GPU and on a CPU.
    _, emitted = jax.lax.scan(step, (start, start), bits, unroll=4)
    sequences = jnp.moveaxis(emitted.reshape(steps, chunk, batch), 0, 2)
    opening = jnp.full((chunk, batch, task.starts), task.start_id, jnp.int32)
    return jnp.concatenate([opening, sequences], axis=2)


@partial(jax.jit, static_argnums=0)
def _is_trigger(task: BigramBackcopy, tokens: jax.Array) -> jax.Array:
    return _trigger_table(task)[tokens] & (_previous(task, tokens) != task.start_id)


@partial(jax.jit, static_argnums=0)
def _law(task: BigramBackcopy, tokens: jax.Array) -> jax.Array:
    dtype = jnp.result_type(float)
    rows = jnp.asarray(np.pad(task._rows, ((0, 0), (0, 1))), dtype)
    previous = _previous(task, tokens)
    copied = one_hot(previous, task.vocab_size, dtype=dtype)
    at_trigger = copied if task.rule == "backcopy" else rows[previous]
    law = rows[tokens]
    mixed = task.copy_probability * at_trigger + (1.0 - task.copy_probability) * law
    law = jnp.where(_is_trigger(task, tokens)[..., None], mixed, law)
    start = one_hot(jnp.full_like(tokens, task.start_id), task.vocab_size, dtype=dtype)
    return jnp.where(jnp.broadcast_to(_certain_start(task, tokens)[:, None], law.shape), start, law)


@partial(jax.jit, static_argnums=0)
def _entropy(task: BigramBackcopy, tokens: jax.Array) -> jax.Array:
    entropies = jnp.asarray(task._entropies, jnp.result_type(float))[_previous(task, tokens), tokens]
    certain = jnp.broadcast_to(_certain_start(task, tokens), entropies.shape)
    return jnp.where(certain, 0.0, entropies)
