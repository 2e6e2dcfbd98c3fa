"""Which argument or result of a TorchScript model a name in `config.pbtxt` means.

The rules of Triton's PyTorch back end (`ModelInstanceState::GetNamingConvention` and `AddInputToMap` in
`src/libtorch.cc` up to 26.02, `src/pt/model_instance_state.cc` since), which loads a model with two inputs exchanged
without a warning:

1. inputs that are all named as arguments of `forward` are these arguments;
2. else names that all end in `__<number>`, counted from 0, are the arguments or results of these numbers;
3. else their order in the configuration counts.

Rule 2 looks at what follows the first `__` of a name. Rule 1 does not hold for outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["meant_positions", "served_names"]


def meant_positions(names: Sequence[str], arguments: Sequence[str] = ()) -> list[int]:
    """The position that each name means; `arguments` are those of `forward` for inputs, none for outputs."""
    if arguments and all(name in arguments for name in names):
        return [list(arguments).index(name) for name in names]
    numbers = [name.partition("__")[2] if "__" in name else None for name in names]
    if all(number is not None and all("0" <= letter <= "9" for letter in number) for number in numbers):
        return [int(number or 0) for number in numbers]
    return list(range(len(names)))


def served_names(names: Sequence[str], kind: str, arguments: Sequence[str] = ()) -> list[str]:
    """`names` where each means its own position, else `KIND__0`, `KIND__1`, ...; `kind` is INPUT or OUTPUT."""
    own = list(range(len(names)))
    if len(set(names)) == len(names) and meant_positions(names, arguments) == own:
        return list(names)
    return [f"{kind}__{index}" for index in own]
